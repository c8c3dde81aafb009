-- expire_quarantine: old bytes that are no JSON go, and old holds that have ended.
-- takes   days int of the setting, 0 for ever; least int: no rule is shorter; most int
-- gives   nothing; the count is in the command's tag
-- index   snapshot_quarantine_created, snapshot_quarantine_pkey
DELETE FROM snapshot_quarantine WHERE id = ANY (ARRAY (
    SELECT q.id
    FROM snapshot_quarantine q
    LEFT JOIN LATERAL (
        SELECT r.days FROM retention_rules r
        WHERE r.tenant_id = q.tenant_id AND r.kind = 'quarantine' AND r.source IN (q.source, '')
        ORDER BY r.source DESC LIMIT 1) AS rule ON true
    WHERE q.created_at < sf_now() - make_interval(days => $2) AND coalesce(rule.days, $1) > 0
      AND coalesce(q.released_at, q.created_at) < sf_now() - make_interval(days => coalesce(rule.days, $1))
      AND (q.snapshot_id IS NULL OR q.released_at IS NOT NULL AND q.released_to IS DISTINCT FROM 'highmem')
    ORDER BY q.created_at
    LIMIT $3))
