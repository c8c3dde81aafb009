-- keys_keep: the answers to these idempotency keys are kept; one that has expired makes room.                    (G10)
-- takes   tenant_id text; clients text[], keys text[], fingerprints bytea[], answers text[] of JSON; hours float8
-- gives   one row (key) for each; fewer where somebody else has used one of them in the meantime
-- index   ingest_keys_pkey
INSERT INTO ingest_keys AS k (tenant_id, client, key, fingerprint, answer, expires_at)
SELECT $1, a.client, a.key, a.fingerprint, a.answer::jsonb, sf_now() + $6::float8 * interval '1 hour'
FROM unnest($2::text[], $3::text[], $4::bytea[], $5::text[]) AS a (client, key, fingerprint, answer)
ORDER BY a.client, a.key
ON CONFLICT (tenant_id, client, key) DO UPDATE
SET fingerprint = excluded.fingerprint, answer = excluded.answer, created_at = sf_now(), expires_at = excluded.expires_at
WHERE k.expires_at <= sf_now()
RETURNING k.key
