-- keys_known: what was answered to these idempotency keys.                                                       (G10)
-- takes   tenant_id text; clients and keys, text[] each, one beside the other
-- gives   rows (client, key, fingerprint, answer); none for a key that is new or has expired
-- index   ingest_keys_pkey
SELECT k.client, k.key, k.fingerprint, k.answer
FROM unnest($2::text[], $3::text[]) AS asked (client, key)
JOIN ingest_keys AS k ON k.tenant_id = $1 AND k.client = asked.client AND k.key = asked.key
WHERE k.expires_at > sf_now()
