-- expire: workers whose lease ran out are dead.                                                       (G5)
-- takes   nothing
-- gives   rows (id, host, pid)
-- index   workers_live
UPDATE workers
SET state = 'dead', stopped_at = sf_now(), stop_reason = coalesce(stop_reason, 'its lease ran out')
WHERE state IN ('running', 'stopping') AND lease_expires_at <= sf_now()
RETURNING id, host, pid
