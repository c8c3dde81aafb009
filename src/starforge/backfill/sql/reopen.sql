-- reopen: failed partitions of a live backfill are pending again; their errors stay until the next attempt.   (B-43, B-70)
-- takes   backfill_job_id uuid, tenant_id text, fingerprint text or null, most int
-- gives   one row (reopened, counted: those that the backfill's counter knows, keys text[])
-- index   backfill_partitions_pkey, backfill_ended_job. The caller holds the backfill's row, so that nobody counts meanwhile:
--         an end that was not counted yet is one that is followed, a counted one is the caller's to take off
WITH chosen AS (
    SELECT ordinal FROM backfill_partitions
    WHERE backfill_job_id = $1 AND tenant_id = $2 AND state = 'failed' AND ($3::text IS NULL OR fingerprint = $3)
    ORDER BY ordinal LIMIT $4
    FOR NO KEY UPDATE
), again AS (
    UPDATE backfill_partitions AS part SET state = 'pending', reopened_at = sf_now(), completed_at = NULL, updated_at = sf_now()
    FROM chosen WHERE part.backfill_job_id = $1 AND part.ordinal = chosen.ordinal AND part.state = 'failed'
    RETURNING part.ordinal, part.partition_key
), followed AS (
    UPDATE backfill_ended AS ended SET outcome = 'retried' FROM again
    WHERE ended.backfill_job_id = $1 AND ended.ordinal = again.ordinal AND ended.outcome = 'failed'
    RETURNING ended.ordinal
)
SELECT count(*)::int AS reopened, count(*)::int - (SELECT count(DISTINCT ordinal)::int FROM followed) AS counted,
       coalesce((array_agg(partition_key ORDER BY ordinal))[:10], '{}') AS keys
FROM again
