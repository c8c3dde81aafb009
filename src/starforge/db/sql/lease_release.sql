-- lease_release: the holder ends its own lease; the row stays, so that the epoch goes on.
-- takes   name text, holder uuid, epoch bigint
-- gives   one row (epoch), or none when the lease was over already
-- index   leases_pkey
UPDATE leases SET expires_at = sf_now()
WHERE name = $1 AND holder = $2 AND epoch = $3 AND expires_at > sf_now()
RETURNING epoch
