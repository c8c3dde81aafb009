"""`starforge worker kills`: what it shows of the jobs that were running when a process died."""

from __future__ import annotations

import json

from starforge.db.pool import connect
from starforge.queue.enqueue import enqueue
from starforge.queue.job import NewJob
from starforge.queue.kill import Death, blame
from tests.cli.test_history import starforge
from tests.covers import covers
from tests.queue.jobs import a_worker, claimed


@covers("O-16", "O-18")
async def test_suspects_are_shown_with_their_size_and_what_they_have_killed(database: str) -> None:
    assert "No process died" in starforge(database, "worker", "kills").stdout
    conn = await connect(database)
    for n in range(2):
        await enqueue(conn, NewJob("t", {"n": n}))
    worker_id = await a_worker(conn)
    jobs = await claimed(conn, worker_id)
    death = Death("signal", "was killed by signal 11 (SIGSEGV)", {})
    await blame(conn, worker_id, death, {job.id: 1.5 for job in jobs})
    await conn.execute("DELETE FROM queue_jobs WHERE id = $1", jobs[1].id)
    await conn.close()

    shown = starforge(database, "worker", "kills")
    assert shown.returncode == 0, shown.stderr
    assert "suspect" in shown.stdout
    told = {one["job_id"]: one for one in json.loads(starforge(database, "worker", "kills", "--json").stdout)}
    first, second = told[str(jobs[0].id)], told[str(jobs[1].id)]
    assert (first["verdict"], first["cause"], first["ran_s"], first["kills"]) == ("suspect", "signal", 1.5, 0)
    assert (first["status"], first["payload_bytes"]) == ("pending", len('{"n": 0}'))
    assert (second["status"], second["payload_bytes"]) == ("gone", None)
    assert starforge(database, "worker", "kills", "--since", "0s", "--json").stdout.strip() == "[]"
