"""Reproduce the figures of decision 0001: which table layout carries `queue_jobs`.

Takes a superuser's DSN on a scratch server of this machine, makes a database there and drops it at the end.
A round builds one variant afresh, loads it, drains it over two connections and checks where every job ended.
The output is medians of shuffled rounds; CPU is that of the two backends, steadier on a shared machine.
"""
# ruff: noqa: S311, S608 - statements are put together from the constants below, and chance is no secret

import asyncio
import itertools
import json
import multiprocessing as mp
import os
import random
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import uvloop

Conn: TypeAlias = "asyncpg.Connection[Any]"
Figures: TypeAlias = defaultdict[str, list[float]]  # of one variant, by their unit
JOBS, ROUNDS, BATCH, CLAIMERS = 70_000, 7, 500, 2
CHANGE_EVERY_MS, READ_EVERY = 20, 50  # each reading statement once in 50 changing ones
DATABASE, ENGINE = "queue_layout_bench", "queue_layout_engine"

CHANGES = {  # the runbooks' statements, word for word but for line breaks
    "Q-SQL-4": """UPDATE queue_jobs
        SET status = 'failed', last_error = jsonb_build_object('reason','quarantined for manual review',"""
    """'original_status',status), updated_at = now() WHERE id = ':job_id';""",
    "Q-SQL-7": """INSERT INTO queue_jobs_dlq (id, original_job_id, type, payload, reason, created_at)
        SELECT gen_random_uuid(), id, type, payload, 'quarantined', now()
        FROM queue_jobs WHERE id = ':job_id';""",
    "Q-SQL-8": "UPDATE queue_jobs SET status     = 'failed', updated_at = now() WHERE id = ':job_id';",
    "O-SQL-6": """INSERT INTO queue_jobs (id, type, payload, priority, status, created_at, updated_at)
        VALUES (gen_random_uuid(), 'process_snapshot_highmem', jsonb_build_object('snapshot_id', ':job_id'),
                10, 'pending', now(), now());""",
}
READS = (  # Q-SQL-1, 2, 3 and F-SQL-3
    "SELECT status, type, COUNT(*) AS cnt FROM queue_jobs GROUP BY status, type ORDER BY cnt DESC;",
    """SELECT id, type, payload, run_after, created_at FROM queue_jobs WHERE status = 'pending'
        ORDER BY run_after ASC, created_at ASC LIMIT 50;""",
    """SELECT id, type, attempts, last_error, updated_at FROM queue_jobs WHERE status = 'failed'
        ORDER BY updated_at DESC LIMIT 100;""",
    "SELECT * FROM queue_jobs WHERE status IN ('pending','running') ORDER BY run_after LIMIT 200;",
)
COLUMNS = """id uuid, queue text NOT NULL DEFAULT 'default', type text NOT NULL, payload jsonb NOT NULL,
    priority int NOT NULL DEFAULT 0, status text NOT NULL DEFAULT 'pending', attempts int NOT NULL DEFAULT 0,
    max_attempts int NOT NULL DEFAULT 5, kills int NOT NULL DEFAULT 0, last_error jsonb, tenant_id text,
    run_after timestamptz NOT NULL DEFAULT now(), created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()"""
LEASED = f"{COLUMNS}, worker_id uuid, lease_epoch bigint NOT NULL DEFAULT 0"
READY = "CREATE INDEX ready ON queue_jobs (queue, type, priority, run_after)"
PENDING = f"{READY} WHERE status = 'pending';"
PLAIN = f"CREATE TABLE queue_jobs ({LEASED}, PRIMARY KEY (id))"
DLQ = """CREATE TABLE queue_jobs_dlq (id uuid PRIMARY KEY, original_job_id uuid, type text, payload jsonb,
    reason text, created_at timestamptz);"""
HISTORY = """CREATE TABLE job_history (id uuid, queue text, type text, payload jsonb, status text,
    worker_id uuid, attempts int, created_at timestamptz, ended_at timestamptz, PRIMARY KEY (id, ended_at))"""
DAY = """CREATE TABLE d{0} PARTITION OF job_history
    FOR VALUES FROM (current_date - 7 + {0}) TO (current_date - 6 + {0});"""
DAYS = f"DROP TABLE job_history; {HISTORY} PARTITION BY RANGE (ended_at);"
DAYS += "CREATE TABLE d PARTITION OF job_history DEFAULT;" + "".join(DAY.format(n) for n in range(10))

PICK = """FROM queue_jobs q WHERE queue = $1 AND type = $2 AND priority = $3 AND status = 'pending'
    AND run_after <= statement_timestamp() ORDER BY run_after LIMIT $4 FOR UPDATE OF q SKIP LOCKED"""
TAKE = "SET status = 'running', worker_id = $5, lease_epoch = q.lease_epoch + 1, updated_at = now()"
GIVES = "q.id, q.type, q.payload, q.priority, q.attempts, q.max_attempts, q.kills, q.created_at, q.tenant_id"
CLAIM = f"""UPDATE queue_jobs q {TAKE} WHERE q.ctid = ANY (ARRAY(SELECT ctid {PICK}))
    RETURNING {GIVES}, q.lease_epoch"""
CLAIM_BY_ID = CLAIM.replace("ctid", "id")
CLAIM_BY_JOIN = f"""WITH picked AS MATERIALIZED (SELECT id {PICK}) UPDATE queue_jobs q {TAKE} FROM picked
    WHERE q.id = picked.id RETURNING {GIVES}, q.lease_epoch"""
ARCHIVE = """INSERT INTO job_history SELECT id, queue, type, payload, 'completed', $3, attempts, created_at,
    statement_timestamp() FROM gone"""
EPOCHS = "((q.id, q.lease_epoch) IN (SELECT * FROM unnest($1::uuid[], $2::bigint[]))) IS TRUE"
GONE = f"AND q.worker_id = $3 AND q.status = 'running' RETURNING q.*) {ARCHIVE}"
FINISH = f"WITH gone AS (DELETE FROM queue_jobs q WHERE q.id = ANY ($1::uuid[]) AND {EPOCHS} {GONE}"
FINISH_BY_JOIN = f"""WITH gone AS (DELETE FROM queue_jobs q USING unnest($1::uuid[], $2::bigint[]) AS u (i, e)
    WHERE q.id = i AND q.lease_epoch = e {GONE}"""
FINISH_UNLOCKED = f"""WITH held AS MATERIALIZED (SELECT ctid FROM queue_jobs q WHERE id = ANY ($1::uuid[])
    AND {EPOCHS} AND worker_id = $3 AND status = 'running' FOR UPDATE SKIP LOCKED), gone AS (
    DELETE FROM queue_jobs WHERE ctid = ANY (ARRAY(SELECT ctid FROM held)) RETURNING *) {ARCHIVE}"""
# B: finish takes the lease first, else a lease reclaimed meanwhile would still pass for the old one.
VIEW = f"""CREATE TABLE job_rows ({COLUMNS}, PRIMARY KEY (id)); {PENDING.replace("queue_jobs", "job_rows")}
CREATE TABLE queue_leases (job_id uuid PRIMARY KEY, worker_id uuid NOT NULL, lease_epoch bigint NOT NULL);
CREATE SEQUENCE lease_epochs CACHE 100; CREATE VIEW queue_jobs AS SELECT id, queue, type, payload, priority,
    CASE WHEN job_id IS NULL THEN status ELSE 'running' END AS status, attempts, run_after, last_error,
    created_at, updated_at, worker_id, lease_epoch FROM job_rows LEFT JOIN queue_leases ON job_id = id;
CREATE FUNCTION by_hand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO job_rows (id, type, payload, priority, status, created_at, updated_at) VALUES
            (NEW.id, NEW.type, NEW.payload, NEW.priority, NEW.status, NEW.created_at, NEW.updated_at);
        RETURN NEW; END IF;
    DELETE FROM queue_leases WHERE job_id = OLD.id;
    UPDATE job_rows SET last_error = NEW.last_error, updated_at = NEW.updated_at,
        status = CASE NEW.status WHEN OLD.status THEN status ELSE NEW.status END WHERE id = OLD.id;
    IF NOT FOUND THEN RETURN NULL; END IF;
    DELETE FROM queue_leases WHERE job_id = OLD.id;  -- one that a claim added while the job was waited for
    RETURN NEW; END $$;
CREATE TRIGGER by_hand INSTEAD OF INSERT OR UPDATE ON queue_jobs FOR EACH ROW EXECUTE FUNCTION by_hand();"""
UNLEASED = "NOT EXISTS (SELECT FROM queue_leases l WHERE l.job_id = q.id) AND run_after"
VIEW_PICK = PICK.replace("queue_jobs", "job_rows").replace("run_after", UNLEASED, 1)
VIEW_CLAIM = f"""WITH picked AS MATERIALIZED (SELECT {GIVES} {VIEW_PICK}), leased AS (
        INSERT INTO queue_leases SELECT id, $5, nextval('lease_epochs') FROM picked
        ON CONFLICT DO NOTHING RETURNING job_id, lease_epoch)
    SELECT p.*, l.lease_epoch FROM leased l JOIN picked p ON p.id = l.job_id"""
VIEW_FINISH = f"""WITH freed AS (DELETE FROM queue_leases q WHERE q.job_id = ANY ($1::uuid[])
        AND q.worker_id = $3 AND {EPOCHS.replace("q.id", "q.job_id")} RETURNING job_id),
    gone AS (DELETE FROM job_rows WHERE id = ANY (ARRAY(SELECT job_id FROM freed)) AND status = 'pending'
             RETURNING *) {ARCHIVE}"""
BY_STATUS = f"""CREATE TABLE queue_jobs ({LEASED}, PRIMARY KEY (id, status)) PARTITION BY LIST (status);
CREATE TABLE jobs_pending PARTITION OF queue_jobs FOR VALUES IN ('pending');
CREATE TABLE jobs_running PARTITION OF queue_jobs FOR VALUES IN ('running');
CREATE TABLE jobs_other PARTITION OF queue_jobs DEFAULT; {READY.replace("queue_jobs", "jobs_pending")};"""
MOVE = CLAIM_BY_ID.replace("RETURNING", "AND q.status = 'pending' RETURNING")
ROOMY = f"{PLAIN} WITH (fillfactor = 50)"
HOT = f"""{ROOMY}; ALTER TABLE queue_jobs ADD parked boolean
    GENERATED ALWAYS AS (status NOT IN ('pending', 'running')) STORED; {READY} WHERE NOT parked;"""
HOLD = """UPDATE queue_jobs SET status = 'running'
    WHERE run_after < (SELECT min(run_after) + interval '20 ms' FROM queue_jobs)"""  # 20 000 of them
RUNNING = "CREATE INDEX running ON queue_jobs (worker_id) WHERE status = 'running';"
BEFORE = """CREATE FUNCTION tenant() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.tenant_id := 'default'; RETURN NEW; END $$; CREATE TRIGGER tenant BEFORE INSERT ON queue_jobs
    FOR EACH ROW WHEN (NEW.tenant_id IS NULL) EXECUTE FUNCTION tenant();"""
GRANTS = f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ENGINE}; GRANT USAGE ON SCHEMA public TO {ENGINE};"
POLICY = f"""ALTER TABLE {{0}} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY engine ON {{0}} TO {ENGINE} USING (true) WITH CHECK (true);"""
FORCED = GRANTS + POLICY.format("queue_jobs") + POLICY.format("job_history")


@dataclass(frozen=True)
class Variant:
    """One way to build, load and drain the queue; the defaults are layout A."""

    name: str
    table: str = f"{PLAIN}; {PENDING}"
    extra: str = ""
    target: str = "queue_jobs"
    claim: str = CLAIM
    finish: str = FINISH
    load: str = "copy"  # copy | temp (COPY into a temp table, then INSERT … SELECT) | insert (unnest)
    role: str = "none"  # SET ROLE before loading and draining
    after: str = "SELECT"  # SQL between loading and draining


A = Variant("A: one table")
D = Variant("D: one table, HOT claims", HOT, claim=CLAIM.replace("AND status", "AND NOT parked AND status"))
LAYOUTS = [
    A,
    replace(A, name="A, fillfactor 50", table=f"{ROOMY}; {PENDING}"),
    replace(A, name="A, running rows indexed", extra=RUNNING),
    Variant("B: lease table, view", VIEW, target="job_rows", claim=VIEW_CLAIM, finish=VIEW_FINISH),
    Variant("C: split by status", BY_STATUS, claim=MOVE),
    D,
]
COSTS = [
    replace(A, name="A"),
    replace(A, name="claim: join on id", claim=CLAIM_BY_JOIN),
    replace(A, name="claim: id = ANY", claim=CLAIM_BY_ID),
    replace(A, name="finish: join unnest", finish=FINISH_BY_JOIN),
    replace(A, name="finish: SKIP LOCKED", finish=FINISH_UNLOCKED),
    replace(A, name="history by day", extra=DAYS),
    replace(A, name="engine role", extra=GRANTS, role=ENGINE),
    replace(A, name="engine role, forced RLS", extra=FORCED, role=ENGINE, load="insert"),
    replace(A, name="A, 20k jobs held", after=HOLD),
    replace(D, name="D, 20k jobs held", after=HOLD),
]
LOADS = [
    replace(A, name="COPY"),
    replace(A, name="COPY, BEFORE trigger", extra=BEFORE),
    replace(A, name="COPY, AFTER trigger", extra=BEFORE.replace("BEFORE I", "AFTER I")),
    replace(LAYOUTS[1], name="COPY, fillfactor 50"),
    replace(A, name="COPY to temp, INSERT, forced RLS", extra=FORCED, role=ENGINE, load="temp"),
    replace(A, name="INSERT unnest", load="insert"),
    replace(A, name="INSERT unnest, BEFORE trigger", extra=BEFORE, load="insert"),
    replace(A, name="INSERT unnest, forced RLS", extra=FORCED, role=ENGINE, load="insert"),
]


async def load(dsn: str, variant: Variant, ids: list[UUID]) -> float:
    """Build the tables, enqueue a job per id, due in the order of the ids, and return jobs per second."""
    admin = await asyncpg.connect(dsn)
    ddl = f"{variant.table} {DLQ} {HISTORY}; {variant.extra}"
    await admin.execute(f"DROP SCHEMA public CASCADE; CREATE SCHEMA public; {ddl}")
    await admin.execute("CHECKPOINT")
    conn = await asyncpg.connect(dsn, server_settings={"role": variant.role})
    due = datetime.now(UTC) - timedelta(hours=1)
    payload = json.dumps({"snapshot_id": str(ids[0]), "note": "x" * 44})
    rows = [(i, "bench", payload, 0, due + timedelta(microseconds=n), "-") for n, i in enumerate(ids)]
    listed, table = (
        "id, type, payload, priority, run_after, tenant_id",
        "t" if variant.load == "temp" else variant.target,
    )
    began = time.perf_counter()
    async with conn.transaction():
        if variant.load == "insert":
            arrays = "$1::uuid[], $2::text[], $3::jsonb[], $4::int[], $5::timestamptz[], $6::text[]"
            sql = f"INSERT INTO {table} ({listed}) SELECT * FROM unnest({arrays})"
            await conn.execute(sql, *map(list, zip(*rows, strict=True)))
        else:
            if variant.load == "temp":
                await conn.execute(f"CREATE TEMP TABLE t ON COMMIT DROP AS SELECT {listed} FROM queue_jobs")
            await conn.copy_records_to_table(table, records=rows, columns=listed.split(", "))
            if variant.load == "temp":
                await conn.execute(f"INSERT INTO {variant.target} ({listed}) SELECT * FROM t")
    rate = len(ids) / (time.perf_counter() - began)
    await admin.execute(variant.after)
    await conn.close()
    await admin.close()
    return rate


async def drain(conn: Conn, variant: Variant, cursor: Any, counts: Counter[str]) -> None:
    """Claim a batch, finish the one before it, until nothing is ready."""
    worker_id = uuid4()

    async def sure(call: Any, *args: Any) -> Any:
        while True:
            try:
                return await call(*args)
            except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as error:
                counts[f"engine {type(error).__name__}"] += 1

    claim = variant.claim, "default", "bench", 0, BATCH, worker_id
    rows = await sure(conn.fetch, *claim)
    while rows:
        cursor.value += len(rows)
        held, rows = rows, await sure(conn.fetch, *claim)
        lease = [row["id"] for row in held], [row["lease_epoch"] for row in held]
        tag = await sure(conn.execute, variant.finish, *lease, worker_id)
        counts["finished"] += int(tag.split()[-1])


def by_hand(dsn: str, ids: list[UUID], cursor: Any, stop: Any, out: Any) -> None:
    """Run the runbooks' statements beside the drain, as psql would, until told to stop."""
    change_ms, counts, failed = list[float](), Counter[str](), set[UUID]()

    async def session() -> None:
        conn = await asyncpg.connect(dsn)
        for turn in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
            if turn % READ_EVERY == 0:
                for sql in READS:
                    await conn.execute(sql)
            name, at = random.choice(list(CHANGES)), min(max(cursor.value, BATCH), len(ids) - 1)
            job_id = ids[random.choice((random.randrange(at - BATCH, at), random.randrange(at, len(ids))))]
            began = time.perf_counter()
            try:
                tag = await conn.execute(CHANGES[name].replace(":job_id", str(job_id)))
            except asyncpg.PostgresError as error:
                counts[f"hand {type(error).__name__}"] += 1
                continue
            change_ms.append((time.perf_counter() - began) * 1000)
            counts[name] += int(tag.split()[-1])
            if tag == "UPDATE 1":
                failed.add(job_id)
            await asyncio.sleep((CHANGE_EVERY_MS - change_ms[-1]) / 1000)

    asyncio.run(session())
    out.send((change_ms, counts, failed))


async def check(conn: Conn, ids: list[UUID], failed: set[UUID], counts: Counter[str]) -> None:
    """Count jobs that are not where they must be."""
    done = [row[0] for row in await conn.fetch("SELECT id FROM job_history")]
    rows = await conn.fetch("SELECT id, status, last_error ->> 'original_status' FROM queue_jobs")
    left = {row[0]: row[1] for row in rows}
    counts["failed by hand"] += len(failed)
    counts["while running"] += sum(row[2] == "running" for row in rows)
    counts["LOST"] += len(set(ids) - set(done) - left.keys())
    counts["TWICE"] += len(done) - len(set(done)) + len(left.keys() & set(done))
    counts["NOT FAILED"] += sum(left.get(job_id) != "failed" for job_id in failed)


def cpu_s(conns: list[Conn]) -> float:
    """Return the CPU seconds that the backends of `conns` have used so far."""
    stats = [Path(f"/proc/{conn.get_server_pid()}/stat").read_text().rpartition(")")[2] for conn in conns]
    return sum(int(ticks) for stat in stats for ticks in stat.split()[11:13]) / os.sysconf("SC_CLK_TCK")


async def one_round(dsn: str, variant: Variant, ids: list[UUID], hand: bool, got: Figures) -> Counter[str]:
    """Build, load and drain one variant; return what happened to its jobs."""
    counts, failed = Counter[str](), set[UUID]()
    await load(dsn, variant, ids)
    conns = [await asyncpg.connect(dsn, server_settings={"role": variant.role}) for _ in range(CLAIMERS)]
    admin = await asyncpg.connect(dsn)
    await admin.execute("VACUUM ANALYZE")
    await admin.execute("CHECKPOINT")
    cursor, stop, (inbox, outbox) = mp.Value("l", 0), mp.Event(), mp.Pipe(duplex=False)
    beside = mp.Process(target=by_hand, args=(dsn, ids, cursor, stop, outbox))
    if hand:
        beside.start()
        await asyncio.sleep(0.25)
    wal = await admin.fetchval("SELECT pg_current_wal_insert_lsn()")
    used, began = cpu_s(conns), time.perf_counter()
    await asyncio.gather(*(drain(conn, variant, cursor, counts) for conn in conns))
    got["jobs/s"].append(counts["finished"] / (time.perf_counter() - began))
    got["us of CPU"].append((cpu_s(conns) - used) / counts["finished"] * 1e6)
    written = await admin.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", wal)
    got["bytes of WAL"].append(float(written) / counts["finished"])
    if hand:
        stop.set()
        change_ms, seen, failed = await asyncio.to_thread(inbox.recv)
        got["ms by hand"] += change_ms
        counts.update(seen)
        due = await admin.fetch(variant.claim, "default", "process_snapshot_highmem", 10, len(ids), uuid4())
        counts["NOT CLAIMABLE"] += counts["O-SQL-6"] - len(due)
    await check(admin, ids, failed, counts)
    for conn in (*conns, admin):
        await conn.close()
    return counts


async def main(server_dsn: str) -> None:
    dsn = urlunsplit(urlsplit(server_dsn)._replace(path=DATABASE))
    server = await asyncpg.connect(server_dsn)
    await server.execute(f"CREATE ROLE {ENGINE}")
    await server.execute(f"CREATE DATABASE {DATABASE}")
    groups = {"alone": LAYOUTS, "by hand": LAYOUTS, "costs": COSTS, "load": LOADS}
    results = {(g, v): (Figures(list), Counter[str]()) for g, variants in groups.items() for v in variants}
    try:
        for (group, v), (got, counts) in random.sample(list(results.items()) * ROUNDS, len(results) * ROUNDS):
            now = time.time_ns() // 1_000_000 << 80
            ids = [UUID(int=now + (n << 64) + random.getrandbits(62)) for n in range(JOBS)]
            if group == "load":
                got["jobs/s"].append(await load(dsn, v, ids))
            else:
                counts.update(await one_round(dsn, v, ids, group == "by hand", got))
    finally:
        await server.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
        await server.execute(f"DROP ROLE {ENGINE}")
    for (group, v), (got, counts) in results.items():
        print(f"{group}, {v.name}: {dict(counts)}")
        for unit, values in got.items():
            ratio = median(values) / median(results[group, groups[group][0]][0][unit])
            p99 = quantiles(values, n=100, method="inclusive")[98]
            spread = f"{min(values):,.1f}-{max(values):,.1f}, p99 {p99:,.1f}"
            print(f"{median(values):12,.1f} {unit:12} x{ratio:.2f} ({spread})")


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
