-- begin: a worker takes a snapshot in hand; the raw bytes come with it. One that is held back is marked so,
--        one whose hold was released no longer.                                                       (O-16)
-- takes   snapshot_id uuid, capture_id uuid or null for the latest capture, tenant_id text, though_held boolean: in
--         hand also where it is held back
-- gives   one row (id, source, raw, size_bytes, sha256, guard, captured_at, held); none where the tenant has no such snapshot;
--         held is the reason of a quarantine that is open, or open for ordinary workers, null otherwise; raw is null where it
--         is held and not taken, and where it is larger
-- index   hero_snapshots_pkey, snapshot_captures_once, snapshot_captures_pkey, snapshot_quarantine_snapshot
-- Its commit waits for no disk: a mark that a crash of the server takes away is made again with the next attempt.
WITH unhurried AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
UPDATE hero_snapshots AS s
SET processing = (hold.reason IS NULL OR $4), updated_at = sf_now(),
    status = CASE WHEN hold.reason IS NOT NULL AND s.status IN ('received', 'failed') THEN 'quarantined'
                  WHEN hold.reason IS NULL AND s.status = 'quarantined' THEN 'received' ELSE s.status END
FROM (SELECT $1::uuid AS id FROM unhurried) AS wanted
LEFT JOIN LATERAL (
    SELECT CASE WHEN q.released_at IS NULL THEN q.reason ELSE 'it was released to high-memory workers only' END AS reason
    FROM snapshot_quarantine q
    WHERE q.snapshot_id = wanted.id AND (q.released_at IS NULL OR q.released_to = 'highmem')
    ORDER BY q.released_at IS NULL DESC, q.created_at DESC LIMIT 1) AS hold ON true
LEFT JOIN LATERAL (
    SELECT c.captured_at FROM snapshot_captures c
    WHERE c.snapshot_id = wanted.id AND ($2::uuid IS NULL OR c.id = $2)
    ORDER BY c.captured_at DESC LIMIT 1) AS capture ON true
WHERE s.id = wanted.id AND s.tenant_id = $3
RETURNING s.id, s.source, CASE WHEN (hold.reason IS NULL OR $4) AND s.size_bytes <= $5 THEN json_send(s.raw) END AS raw, s.size_bytes,
          s.sha256, s.guard, coalesce(capture.captured_at, s.captured_at, s.created_at) AS captured_at, hold.reason AS held
