-- register: a worker is there and holds its lease.
-- takes   id uuid, host text, machine text, pid int, pid_started_s float8, version text, queues text[],
--         types text[], concurrency int, lease_s float8, connections int, high_memory boolean,
--         memory_limit_bytes bigint, previous_id uuid or null
-- gives   one row (lease_expires_at)
-- index   workers_pkey
INSERT INTO workers (id, host, machine, pid, pid_started_s, version, queues, types, concurrency, lease_expires_at,
                     connections, high_memory, memory_limit_bytes, previous_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, sf_now() + make_interval(secs => $10), $11, $12, $13, $14)
RETURNING lease_expires_at
