-- receive: new contents are stored once per tenant and source, each with its capture.                  (F-20, G1)
-- takes   tenant_id text; and for each, in arrays: id uuid, source text, subject text or null, raw text, size_bytes bigint,
--         sha256 bytea, captured_at timestamptz or null for now, status text ('received' or 'quarantined'),
--         guard smallint or null
-- gives   one row (id, capture_id) for each that is new; none for what is known
-- index   hero_snapshots_content; in the order of their digests, so that two that take the same contents do not deadlock
WITH stored AS (
    INSERT INTO hero_snapshots (id, tenant_id, source, subject, raw, size_bytes, sha256, captured_at, status, guard)
    SELECT o.id, $1, o.source, o.subject, o.raw::json, o.size_bytes, o.sha256, coalesce(o.captured_at, sf_now()), o.status, o.guard
    FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bytea[], $8::timestamptz[], $9::text[],
                $10::smallint[])
        AS o (id, source, subject, raw, size_bytes, sha256, captured_at, status, guard)
    ORDER BY o.sha256
    ON CONFLICT ON CONSTRAINT hero_snapshots_content DO NOTHING
    RETURNING id, source, subject, captured_at, status
), captured AS (
    INSERT INTO snapshot_captures (tenant_id, snapshot_id, source, subject, captured_at)
    SELECT $1, id, source, subject, captured_at FROM stored
    RETURNING id, snapshot_id
)
SELECT stored.id, captured.id AS capture_id FROM stored LEFT JOIN captured ON captured.snapshot_id = stored.id
