-- retention_least: the shortest time that anybody keeps a kind, by rule or by the setting.
-- takes   kind text, days int of the setting, 0 for ever
-- gives   one row (least int; null where nobody lets anything go)
-- index   none: as many rows as there are rules
SELECT nullif(least(min(days) FILTER (WHERE days > 0), nullif($2::int, 0)), 0) AS least FROM retention_rules WHERE kind = $1
