-- upkeep_note: how the leader's tasks went since the last note.
-- takes   names text[], every_s float8[], errors text[] with nulls, ran_ms float8[], seconds since the last run float8[],
--         seconds since the last success float8[] with nulls; the leader's lease: name text, holder uuid, epoch bigint
-- gives   the names; none when the lease is over
-- index   upkeep_tasks_pkey, leases_pkey
INSERT INTO upkeep_tasks AS t (name, every_s, tried_at, done_at, error, ran_ms)
SELECT run.name, run.every_s, sf_now() - make_interval(secs => run.tried_s), sf_now() - make_interval(secs => run.done_s),
       run.error, run.ran_ms
FROM unnest($1::text[], $2::float8[], $3::text[], $4::float8[], $5::float8[], $6::float8[])
    AS run (name, every_s, error, ran_ms, tried_s, done_s)
WHERE EXISTS (SELECT 1 FROM leases l WHERE l.name = $7 AND l.holder = $8 AND l.epoch = $9 AND l.expires_at > sf_now())
ORDER BY run.name
ON CONFLICT (name) DO UPDATE
SET every_s = excluded.every_s, tried_at = excluded.tried_at, done_at = coalesce(excluded.done_at, t.done_at),
    error = excluded.error, ran_ms = excluded.ran_ms
RETURNING t.name
