-- expire_captures: old captures go, save the latest of each subject and of each snapshot: by those it is known what is new.
-- takes   days int of the setting, 0 for ever; least int: no rule is shorter; most int
-- gives   nothing; the count is in the command's tag
-- index   snapshot_captures_pkey, snapshot_captures_latest, snapshot_captures_once
DELETE FROM snapshot_captures WHERE id = ANY (ARRAY (
    SELECT c.id
    FROM snapshot_captures c
    LEFT JOIN LATERAL (
        SELECT r.days FROM retention_rules r
        WHERE r.tenant_id = c.tenant_id AND r.kind = 'captures' AND r.source IN (c.source, '')
        ORDER BY r.source DESC LIMIT 1) AS rule ON true
    WHERE c.created_at < sf_now() - make_interval(days => $2) AND coalesce(rule.days, $1) > 0
      AND c.created_at < sf_now() - make_interval(days => coalesce(rule.days, $1))
      AND EXISTS (SELECT FROM snapshot_captures l WHERE l.snapshot_id = c.snapshot_id AND l.captured_at > c.captured_at)
      AND (c.subject IS NULL OR EXISTS (
          SELECT FROM snapshot_captures l
          WHERE l.tenant_id = c.tenant_id AND l.source = c.source AND l.subject = c.subject AND l.captured_at > c.captured_at))
    LIMIT $3))
