-- enqueue: starforge_enqueue(), by which other languages and triggers make jobs.              (G1, G10, J-39, J-40)
-- phase: expand

-- The same rules as those of the Python client (queue/entry.py, queue/sql/enqueue_unique.sql), with the caller's rights:
-- row security decides what it may write. It belongs to the caller's transaction, and so does its hint to the workers.
CREATE FUNCTION starforge_enqueue(
    type          text,
    payload       jsonb DEFAULT '{}',
    queue         text DEFAULT 'default',
    priority      integer DEFAULT 0,
    delay         interval DEFAULT NULL,
    run_after     timestamptz DEFAULT NULL,
    key           text DEFAULT NULL,
    tags          text[] DEFAULT NULL,
    max_attempts  integer DEFAULT NULL,
    limit_key     text DEFAULT '',
    tenant        text DEFAULT NULL,
    key_period    interval DEFAULT NULL
) RETURNS uuid
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
#variable_conflict use_column
<<job>>
DECLARE
    -- Version 7: ids that rise with time keep the right edge of the index warm.
    id       uuid := encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
                 PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
                 52, 1), 53, 1), 'hex')::uuid;
    payload  jsonb := coalesce(starforge_enqueue.payload, '{}');
    queue    text := coalesce(starforge_enqueue.queue, 'default');
    tenant   text := coalesce(starforge_enqueue.tenant, sf_tenant());
    lane_key text := coalesce(starforge_enqueue.limit_key, '');
    priority integer := coalesce(starforge_enqueue.priority, 0);
    tries    integer := coalesce(starforge_enqueue.max_attempts, 5);
    starts   timestamptz := coalesce(starforge_enqueue.run_after, sf_now() + starforge_enqueue.delay, sf_now());
    size_max integer := coalesce(nullif(current_setting('starforge.payload_bytes_max', true), '')::integer, 262144);
    size     integer := octet_length(job.payload::text);
    fault    text;
    holder   uuid;
    holds    boolean;
    taken    uuid;
    hint     text;
BEGIN
    fault := CASE
        WHEN starforge_enqueue.type IS NULL OR starforge_enqueue.type = '' THEN 'type is empty; give the name of a job type'
        WHEN length(starforge_enqueue.type) > 200 THEN 'type is longer than 200 characters'
        WHEN job.queue = '' OR length(job.queue) > 200 THEN 'queue is empty or longer than 200 characters'
        WHEN job.tenant = '' OR length(job.tenant) > 64 THEN 'tenant is empty or longer than 64 characters'
        WHEN length(job.lane_key) > 200 THEN 'limit_key is longer than 200 characters'
        WHEN job.priority NOT BETWEEN -1000 AND 1000 THEN format('priority is %s; give -1000 to 1000', job.priority)
        WHEN job.tries NOT BETWEEN 1 AND 1000 THEN format('max_attempts is %s; give 1 to 1000', job.tries)
        WHEN starforge_enqueue.delay IS NOT NULL AND starforge_enqueue.run_after IS NOT NULL THEN 'delay stands beside run_after; give one of the two'
        WHEN starforge_enqueue.delay NOT BETWEEN interval '0' AND interval '10 years' THEN format('delay is %s; give 0 to 10 years', starforge_enqueue.delay)
        WHEN NOT isfinite(job.starts) THEN 'run_after is infinite; give a time'
        WHEN cardinality(starforge_enqueue.tags) > 20 THEN format('tags are %s; at most 20 are kept', cardinality(starforge_enqueue.tags))
        WHEN EXISTS (SELECT FROM unnest(starforge_enqueue.tags) AS tag WHERE tag IS NULL OR tag = '' OR length(tag) > 100)
            THEN 'tags hold one that is null, empty or longer than 100 characters'
        WHEN starforge_enqueue.key = '' OR octet_length(starforge_enqueue.key) > 512 THEN 'key is empty or longer than 512 bytes; use a hash of it'
        WHEN starforge_enqueue.key_period IS NOT NULL AND starforge_enqueue.key IS NULL THEN 'key_period stands without a key'
        WHEN NOT starforge_enqueue.key_period BETWEEN interval '1 microsecond' AND interval '10 years' THEN 'key_period is not above 0 and at most 10 years'
    END;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'SF241: of a % job the %', coalesce(nullif(starforge_enqueue.type, ''), '?'), fault
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Call starforge_enqueue again with a value as the message asks for; nothing was accepted.';
    END IF;
    IF jsonb_typeof(job.payload) <> 'object' THEN
        RAISE EXCEPTION 'SF203: the payload of a % job is of type %, not a JSON object', starforge_enqueue.type, jsonb_typeof(job.payload)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Build it with jsonb_build_object(...): its keys are the arguments of the handler.';
    END IF;
    IF job.size > job.size_max THEN
        RAISE EXCEPTION 'SF240: the payload of a % job has % bytes; at most % are accepted', starforge_enqueue.type, job.size, job.size_max
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Store large content elsewhere and put a reference to it into the payload, or SET starforge.payload_bytes_max.';
    END IF;

    IF starforge_enqueue.key IS NOT NULL THEN
        -- Ten times: a key that changes hands more often between two of these statements is somebody's mistake.
        FOR turn IN 1..10 LOOP
            SELECT k.job_id, coalesce(k.expires_at > sf_now(), false)
                       OR EXISTS (SELECT FROM queue_jobs j WHERE j.id = k.job_id AND j.status = ANY (k.states))
                       OR (k.states && ARRAY['completed', 'cancelled']
                           AND EXISTS (SELECT FROM job_history h WHERE h.id = k.job_id AND h.status = ANY (k.states)))
                INTO holder, holds
                FROM job_keys k
                WHERE k.tenant_id = job.tenant AND k.type = starforge_enqueue.type AND k.key = starforge_enqueue.key;
            IF holds THEN
                RETURN holder;
            END IF;
            INSERT INTO job_keys AS k (tenant_id, type, key, job_id, states, expires_at)
                VALUES (job.tenant, starforge_enqueue.type, starforge_enqueue.key, job.id, ARRAY['pending', 'running', 'paused', 'quarantined'],
                        sf_now() + starforge_enqueue.key_period)
                ON CONFLICT (tenant_id, type, key) DO UPDATE
                    SET job_id = excluded.job_id, states = excluded.states, expires_at = excluded.expires_at, created_at = sf_now()
                    WHERE k.job_id = holder
                RETURNING k.job_id INTO taken;
            EXIT WHEN taken IS NOT NULL;
        END LOOP;
        IF taken IS NULL THEN
            RAISE EXCEPTION 'SF242: the key % of a % job changed hands 10 times', quote_literal(starforge_enqueue.key), starforge_enqueue.type
                USING ERRCODE = 'serialization_failure', HINT = 'Call starforge_enqueue again; nothing was accepted.';
        END IF;
    END IF;

    INSERT INTO queue_jobs (id, tenant_id, queue, type, payload, priority, max_attempts, run_after, limit_key, tags)
        VALUES (job.id, job.tenant, job.queue, starforge_enqueue.type, job.payload, job.priority, job.tries, job.starts, job.lane_key,
                CASE WHEN cardinality(starforge_enqueue.tags) > 0 THEN starforge_enqueue.tags END);
    IF job.starts <= sf_now() THEN
        hint := json_build_array(job.queue, starforge_enqueue.type, job.priority, job.tenant, job.lane_key)::text;
        PERFORM pg_notify('starforge_jobs', CASE WHEN octet_length(hint) <= 7900 THEN hint ELSE '*' END);
    END IF;
    RETURN job.id;
END $$;
COMMENT ON FUNCTION starforge_enqueue IS 'Accepts a job in the caller''s transaction and returns its id; with a key that holds, that of the existing job.';
