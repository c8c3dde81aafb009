-- naming_ended: the jobs of a tenant that ended about a time and whose payload names this.
-- takes   key text, value text, tenant_id text, about timestamptz
-- gives   rows (id, type, status, named, created_at, updated_at, reason), the latest first
-- index   job_history_completed: of one partition the few minutes about that time
SELECT id, type, status, payload ->> $1::text AS named, created_at, completed_at AS updated_at, reason
FROM job_history
WHERE completed_at BETWEEN $4::timestamptz - interval '5 minutes' AND $4 + interval '5 minutes'
  AND payload ->> $1::text = $2 AND tenant_id = $3
ORDER BY completed_at DESC
