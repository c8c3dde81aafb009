-- take_place: a clone waits for what its original waits for, and who waits for that one waits for the clone.  (B-44, B-70)
-- takes   id uuid, its clone's id uuid, tenant_id text
-- gives   rows (id) that wait for the clone now
-- index   backfill_jobs_pkey, backfill_jobs_live
WITH waits AS (
    UPDATE backfill_jobs AS clone
    SET waits_for = ARRAY(SELECT above.id FROM backfill_jobs AS above
                          WHERE above.id = ANY (original.waits_for) AND above.tenant_id = $3
                            AND above.state IN ('pending', 'running', 'paused', 'resuming'))
    FROM backfill_jobs AS original
    WHERE clone.id = $2 AND clone.tenant_id = $3 AND original.id = $1 AND original.tenant_id = $3
)
UPDATE backfill_jobs SET waits_for = array_replace(waits_for, $1, $2), updated_at = sf_now()
WHERE tenant_id = $3 AND state IN ('pending', 'paused', 'resuming') AND $1 = ANY (waits_for) AND id <> $2
RETURNING id
