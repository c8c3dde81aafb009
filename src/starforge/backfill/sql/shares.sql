-- shares: the concurrency that running backfills ask for, of one tenant and of all.                              (B-69)
-- takes   tenant_id text
-- gives   one row (tenant, everyone)
-- index   backfill_jobs_due
SELECT coalesce(sum(concurrency) FILTER (WHERE tenant_id = $1), 0)::int AS tenant, coalesce(sum(concurrency), 0)::int AS everyone
FROM backfill_jobs WHERE closed_at IS NULL AND state = 'running'
