-- lease_take: the lease is the holder's, under a new epoch, where nobody else's holds.                 (G2)
-- takes   name text, holder uuid, lease_s float8, who text
-- gives   one row (epoch), or none while another holder's lease holds
-- index   leases_pkey; a lease that holds is only looked at: those who would have it ask every few seconds
INSERT INTO leases (name, holder, who, epoch, expires_at, taken_at)
SELECT $1, $2, $4, 1, sf_now() + make_interval(secs => $3), sf_now()
WHERE NOT EXISTS (SELECT 1 FROM leases WHERE name = $1 AND holder <> $2 AND expires_at > sf_now())
ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, who = excluded.who, epoch = leases.epoch + 1, expires_at = excluded.expires_at,
    taken_at = excluded.taken_at
WHERE leases.expires_at <= sf_now() OR leases.holder = excluded.holder
RETURNING epoch
