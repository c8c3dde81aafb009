-- extend: the heartbeat; a lease that has ended is never taken up again.                             (G5)
-- takes   id uuid, lease_s float8, rss_bytes bigint, asked_age_s float8 or null, finished bigint
-- gives   one row (lease_expires_at), or none when the lease is over
-- index   workers_pkey
UPDATE workers
SET heartbeat_at = sf_now(), lease_expires_at = sf_now() + make_interval(secs => $2), rss_bytes = nullif($3, 0),
    claimed_at = coalesce(sf_now() - make_interval(secs => $4), claimed_at), jobs_finished = greatest($5, jobs_finished)
WHERE id = $1 AND state IN ('running', 'stopping') AND lease_expires_at > sf_now()
RETURNING lease_expires_at
