-- expire_errors: old errors go.
-- takes   days int of the setting, 0 for ever; least int: no rule is shorter; most int
-- gives   nothing; the count is in the command's tag
-- index   etl_errors_created, etl_errors_pkey
DELETE FROM etl_errors WHERE id = ANY (ARRAY (
    SELECT e.id
    FROM etl_errors e
    LEFT JOIN LATERAL (
        SELECT r.days FROM retention_rules r
        WHERE r.tenant_id = e.tenant_id AND r.kind = 'errors' AND r.source IN (e.source, '')
        ORDER BY r.source DESC LIMIT 1) AS rule ON true
    WHERE e.created_at < sf_now() - make_interval(days => $2) AND coalesce(rule.days, $1) > 0
      AND e.created_at < sf_now() - make_interval(days => coalesce(rule.days, $1))
    ORDER BY e.created_at
    LIMIT $3))
