-- expired_snapshots: snapshots that are through and that no rule keeps any longer, locked; those that others hold are left.
-- takes   days int of the setting, 0 for ever; least int: no rule is shorter; most int
-- gives   rows (id), the oldest first
-- index   hero_snapshots_created
SELECT s.id
FROM hero_snapshots s
LEFT JOIN LATERAL (
    SELECT r.days FROM retention_rules r
    WHERE r.tenant_id = s.tenant_id AND r.kind = 'snapshots' AND r.source IN (s.source, '')
    ORDER BY r.source DESC LIMIT 1) AS rule ON true
WHERE s.created_at < sf_now() - make_interval(days => $2) AND coalesce(rule.days, $1) > 0
  AND greatest(s.created_at, s.updated_at) < sf_now() - make_interval(days => coalesce(rule.days, $1))
  AND s.status IN ('processed', 'superseded', 'failed')
  AND NOT EXISTS (SELECT FROM snapshot_quarantine q WHERE q.snapshot_id = s.id AND q.released_at IS NULL)
ORDER BY s.created_at
LIMIT $3
FOR UPDATE OF s SKIP LOCKED
