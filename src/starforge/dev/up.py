"""`starforge up`: database, migrations, server and one worker in one process tree."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from starforge.app import load
from starforge.clock import monotonic_s
from starforge.db.migrate import check_version
from starforge.db.pool import MAY_PASS, Pool, connect, require_bound_role
from starforge.db.server import Database, database
from starforge.dev.errors import WorkerMisusedError
from starforge.errors import MisusedError, UnreachableError
from starforge.loop import backoff_s, every, wait
from starforge.settings import HomeSettings
from starforge.web.auth import ensure_first_token
from starforge.web.serve import bind, serve
from starforge.worker.registry import WorkerSettings

log = structlog.get_logger("up")

RESTART_S = 0.2
RESTART_S_MAX = 10.0
QUICK_DEATH_S = 5.0
LOOK_S = 2.0
"""How often the embedded database is looked after."""

ANSWER_S_MAX = 15.0
"""A database that takes longer to answer is not well."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs, with or without a worker beside it."""

    pool: Pool
    database: Database
    url: str
    token_file: Path
    tasks: tuple[asyncio.Task[None], ...]

    async def until(self, stop: asyncio.Event) -> None:
        """Wait for `stop`; raise what ended the server or the worker before that."""
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({stopped, *self.tasks}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in done - {stopped}:
            task.result()


class WorkerProcess:
    """The worker of `up`, in a process group of its own, started again whenever it ends."""

    def __init__(self, url: str, app: str, log_level: str) -> None:
        self._environment = {**os.environ, "DATABASE_URL": url, "STARFORGE_PARENT_PIPE": "1"}
        self._command = [sys.executable, "-m", "starforge", "worker", "--app", app, "--log-level", log_level]
        self._process: asyncio.subprocess.Process | None = None
        self._stop = asyncio.Event()
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The process (and group) id of the supervisor that runs now."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self) -> None:
        """Keep a worker running until `stop`; raise WorkerMisusedError where none can start."""
        quick = 0
        while not self._stop.is_set():
            started_s = monotonic_s()
            # Its own group: Ctrl-C in the terminal reaches `up`, which drains the worker in order.
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, stdin=asyncio.subprocess.PIPE, start_new_session=True
            )
            self.starts += 1
            if self._stop.is_set():
                # The stop came while there was no process to tell; this one has nothing to drain yet.
                _end_group(self._process.pid)
            status = await self._process.wait()
            _end_group(self._process.pid)
            if self._stop.is_set():
                return
            if status == MisusedError.exit_code:
                # It said why, and a next one would say the same.
                raise WorkerMisusedError("the worker refused to start; the line above says why")
            quick = quick + 1 if monotonic_s() - started_s < QUICK_DEATH_S else 0
            log.warning("worker.ended", exit_status=status, starts=self.starts)
            await wait(self._stop, backoff_s(quick, first_s=RESTART_S, most_s=RESTART_S_MAX) if quick else 0)

    async def stop(self) -> None:
        """Drain the worker; kill it when it does not end within its grace period."""
        self._stop.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), WorkerSettings.read().grace_s + 10)
        except TimeoutError:
            log.error("worker.killed", pid=process.pid)
            _end_group(process.pid)

    def hurry(self) -> None:
        """Have the worker give its running jobs back at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)


def _end_group(pid: int) -> None:
    """Kill what is left of a worker's group: a child outlives its supervisor by an instant at most."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@asynccontextmanager
async def serving(*, host: str | None, port: int | None, app: str) -> AsyncIterator[Running]:
    """Serve HTTP for the length of a `with` block.

    Args:
        host: Address; STARFORGE_HTTP_HOST where not given.
        port: Port; STARFORGE_HTTP_PORT where not given.
        app: The app whose mappings are served, as module:attribute.
    Raises: AppNotFoundError; PortTakenError before anything else is started; DatabaseUnreachableError,
        SchemaVersionError.
    """
    star = load(app)
    with bind(host, port) as listener:
        async with database() as db:
            conn = await connect(db.url("owner"))
            try:
                await check_version(conn, what="this server")
                await require_bound_role(conn, "this server")
                token_file = await ensure_first_token(conn, HomeSettings.read().home)
            finally:
                await conn.close()
            pool = await Pool.open(db.url("app"), application="starforge server")
            stop = asyncio.Event()
            server = asyncio.create_task(serve(pool, listener, stop, star=star))
            _settle()
            nurse = asyncio.create_task(_keep_database(db, pool, stop))
            address = "{}:{}".format(*listener.getsockname()[:2])
            try:
                yield Running(pool, db, f"http://{address}", token_file, (server,))
            finally:
                stop.set()
                nurse.cancel()
                await asyncio.wait({server, nurse})
                await pool.close()


def _settle() -> None:
    """Leave what was loaded to the end: a full collection would walk over all of it in mid-request."""
    gc.collect()
    gc.freeze()


async def _keep_database(db: Database, pool: Pool, stop: asyncio.Event) -> None:
    """Start the embedded server again when it dies: the one that serves is the one that looks after it."""

    async def look() -> None:
        try:
            async with asyncio.timeout(ANSWER_S_MAX), pool.connection() as conn:
                await conn.execute("SELECT 1")
        except MAY_PASS:
            try:
                if await asyncio.to_thread(db.revive):
                    log.warning("database.revived")
            except UnreachableError as error:
                log.error("database.dead", error=str(error), remedy=error.remedy)

    if db.embedded is not None:
        await every(LOOK_S, look, stop, name="embedded database")


@asynccontextmanager
async def running(
    *, host: str | None, port: int | None, app: str, log_level: str
) -> AsyncIterator[tuple[Running, WorkerProcess]]:
    """Run server and worker for the length of a `with` block, and end them in order: worker first.

    Until `on_signals` is called SIGTERM ends the start as Ctrl-C does: with what was started.
    """
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    async with serving(host=host, port=port, app=app) as served:
        worker = WorkerProcess(served.database.url("engine"), app, log_level)
        keeper = asyncio.create_task(worker.run())
        try:
            yield replace(served, tasks=(*served.tasks, keeper)), worker
        finally:
            await worker.stop()
            await asyncio.wait({keeper})


def on_signals(stop: asyncio.Event, hurry: list[WorkerProcess]) -> None:
    """Set `stop` at the first SIGINT or SIGTERM; a second one hurries the worker."""

    def told() -> None:
        if stop.is_set():
            for worker in hurry:
                worker.hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)
