-- lease_renew: the holder goes on; a lease that has ended is never taken up again.                      (G2)
-- takes   name text, holder uuid, epoch bigint, lease_s float8
-- gives   one row (epoch), or none when the lease is over
-- index   leases_pkey
UPDATE leases SET expires_at = sf_now() + make_interval(secs => $4)
WHERE name = $1 AND holder = $2 AND epoch = $3 AND expires_at > sf_now()
RETURNING epoch
