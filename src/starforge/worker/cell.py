"""A cell: one isolated process, seen from the child that started it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from contextlib import suppress
from typing import Self

import msgspec

from starforge import __version__
from starforge.clock import monotonic_s
from starforge.db.pool import MAY_PASS, Pool
from starforge.errors import storable
from starforge.queue.context import Context
from starforge.queue.handler import Discard, JobType
from starforge.queue.kill import Cause, Death
from starforge.telemetry.tree import inherited
from starforge.worker.cgroup import memory_folder, oom_kills
from starforge.worker.deadline import CancelSettings, limit_s_of
from starforge.worker.errand import (
    Alive,
    Borrow,
    Cut,
    Do,
    Ended,
    IsolatedOrders,
    Lent,
    Ready,
    Reply,
    Request,
    outcome_of,
)
from starforge.worker.errors import ProcessKilledError, ProcessNotStartedError
from starforge.worker.isolated import ORDERS_ENV
from starforge.worker.outcome import CodeSettings, Ending, Outcome
from starforge.worker.process import exit_status, in_words

START_S_MAX = 60.0
JOBS_MAX = 100
"""A kept process ends after so many jobs; a job that is run alone gets a fresh one."""

CUT_S = 3.0
"""Time for a cancelled job to end; shorter than what the supervisor gives the child."""

SILENT_LOOK_S = 0.5
EXIT_S_MAX = 5.0
REPLY_BYTES_MAX = 16 * 1024 * 1024
STACKS_BYTES_MAX = 8000
CURVE_SAMPLES = 60


def _ran_ms(context: Context) -> float:
    return (monotonic_s() - context.started_s) * 1000


def cut_short(context: Context, error: asyncio.CancelledError) -> Outcome:
    """Say what a cancellation means that the process did not answer itself."""
    if context.asked is not None:
        return Outcome(context.job, "cancelled", _ran_ms(context), Discard(context.asked))
    ending: Ending = "returned" if context.host.cut.is_set() else "failed"
    return Outcome(context.job, ending, _ran_ms(context), error)


class Cell:
    """One isolated process."""

    def __init__(self, process: asyncio.subprocess.Process, number: int, pool: Pool, stacks: int) -> None:
        self._process, self.number, self._pool, self._stacks = process, number, pool, stacks
        self._jobs = 0
        self._lent = 0
        self._lending: set[asyncio.Task[None]] = set()
        self._curve: deque[tuple[float, int]] = deque(maxlen=CURVE_SAMPLES)
        self.fit = True
        self.idle_since_s = 0.0

    @classmethod
    async def start(cls, orders: IsolatedOrders, number: int, pool: Pool) -> Self:
        """Start a process and wait until it has imported the app; raise ProcessNotStartedError."""
        stacks = os.memfd_create("starforge-stacks")
        told = msgspec.structs.replace(orders, stacks=f"/proc/{os.getpid()}/fd/{stacks}")
        environment = {
            **inherited(),
            ORDERS_ENV: msgspec.json.encode(told).decode(),
            "STARFORGE_ISOLATED_NAME": f"{os.getpid()}-isolated-{number}",
        }
        try:
            started = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "starforge.worker.isolated",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                # A group of its own: what the handler starts is killed with it.
                start_new_session=True,
                limit=REPLY_BYTES_MAX,
            )
        except OSError as error:
            os.close(stacks)
            raise ProcessNotStartedError(f"no process could be started: {error}") from error
        process = cls(started, number, pool, stacks)
        try:
            async with asyncio.timeout(START_S_MAX):
                reply = await process._heard()
        except TimeoutError:
            await process.end()
            raise ProcessNotStartedError(f"its process was not ready after {START_S_MAX:g} s") from None
        except BaseException:
            await process.end()
            raise
        if not isinstance(reply, Ready):
            status = await process._status()
            await process.end()
            raise ProcessNotStartedError(f"its process {in_words(status)} before it was ready")
        return process

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def run(self, context: Context, job_type: JobType, progress_s: float) -> Outcome:
        """Run one job in the process; whatever becomes of the process is told by the outcome."""
        job = context.job
        self._jobs += 1
        self.fit = self._jobs < JOBS_MAX
        group = memory_folder(self._process.pid)
        kills = oom_kills(group)
        self._curve.clear()
        try:
            # An isolated type may keep its process to itself for as long as it may run.
            ended = await self._watched(context, job_type, None if job_type.isolated else progress_s)
        finally:
            await self._take_back()
        if isinstance(ended, Ended):
            self.fit = self.fit and ended.fit
            if ended.spoke:
                context.host.progress.used.add(job.id)
            return outcome_of(job, ended)
        self.fit = False
        ran_ms = _ran_ms(context)
        if ended is None:
            status = await self._status()
            ended = self._death(status, out_of_memory=oom_kills(group) > kills, ran_ms=ran_ms)
        if isinstance(ended, Death):
            return Outcome(job, "killed", ran_ms, ProcessKilledError(ended))
        if isinstance(ended, asyncio.CancelledError):
            return cut_short(context, ended)
        return Outcome(job, "failed", ran_ms, ended)

    async def _watched(
        self, context: Context, job_type: JobType, silent_s_max: float | None
    ) -> Ended | Death | BaseException | None:
        """Follow the job to its end: told, a death that is known, an error of ours, or None: it just died."""
        timeout_s = limit_s_of(context.job, job_type)
        await self._say(Do(context.job, timeout_s))
        hard_s = CancelSettings.read().cancel_s
        deadline_s = context.started_s + timeout_s + hard_s if timeout_s else None
        cancelled: asyncio.CancelledError | None = None
        silent_s = 0.0
        while True:
            reply: Reply | None = None
            try:
                async with asyncio.timeout(SILENT_LOOK_S):
                    reply = await self._heard()
                if reply is None:
                    return cancelled
                silent_s = 0.0
            except TimeoutError:
                if not self.lives:
                    return cancelled  # what it has started may hold the pipe open
                # Counted in small steps: a child that was itself held up has not seen its process be silent.
                silent_s += SILENT_LOOK_S
            except ValueError as error:
                await self._kill()
                return error
            except asyncio.CancelledError as error:
                if cancelled is not None:
                    await self._kill()
                    return cancelled
                cancelled, deadline_s = error, monotonic_s() + CUT_S
                await self._say(Cut(context.host.cut.is_set(), context.asked))
            if isinstance(reply, Ended):
                return reply
            self._note(reply)
            if deadline_s is not None and monotonic_s() >= deadline_s:
                await self._kill()
                return cancelled or TimeoutError(f"no result within {timeout_s:g} s; its process was killed")
            if silent_s_max is not None and silent_s >= silent_s_max:
                return await self._stalled(silent_s_max)

    def _note(self, reply: Reply | None) -> None:
        if isinstance(reply, Alive):
            self._curve.append((monotonic_s(), reply.rss_bytes))
        elif isinstance(reply, Borrow):
            task = asyncio.create_task(self._lend())
            self._lending.add(task)
            task.add_done_callback(self._lending.discard)

    async def _stalled(self, silent_s: float) -> Death:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGQUIT)
        await asyncio.sleep(SILENT_LOOK_S)
        await self._kill()
        words = f"made no progress for {silent_s:g} s and was killed"
        return Death("stalled", words, self._evidence(-signal.SIGKILL.value))

    def _death(self, status: int, *, out_of_memory: bool, ran_ms: float) -> Death:
        words = in_words(status)
        cause: Cause = "exit" if status >= 0 else "signal"
        if status == -signal.SIGKILL and out_of_memory:
            cause, words = "oom", f"{words}, out of memory by the kernel's count"
        return Death(cause, words, {**self._evidence(status), "ran_s": round(ran_ms / 1000, 3)})

    def _evidence(self, status: int) -> dict[str, object]:
        now_s = monotonic_s()
        said = os.pread(self._stacks, STACKS_BYTES_MAX, 0).decode(errors="replace")
        return {
            "exit_status": status,
            "memory": [(round(now_s - at_s, 1), rss_bytes) for at_s, rss_bytes in self._curve],
            "stacks": storable(said),
            "ran_beside": 0,
            "version": __version__,
            "code_version": CodeSettings.read().version,
            "host": os.uname().nodename,
        }

    async def _lend(self) -> None:
        try:
            await self._pool.lend()
        except MAY_PASS:
            await self._say(Lent(False))
            return
        self._lent += 1
        await self._say(Lent(True))

    async def _take_back(self) -> None:
        for task in self._lending:
            task.cancel()
        if self._lending:
            await asyncio.wait(self._lending)
        while self._lent:
            self._lent -= 1
            self._pool.take_back()

    async def _say(self, request: Request) -> None:
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # that it died is heard
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            await self._process.stdin.drain()

    async def _heard(self) -> Reply | None:
        """Read one reply; None when the process has ended."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        try:
            reply: Reply = msgspec.json.decode(line, type=Reply)
            return reply
        except msgspec.MsgspecError as error:
            raise ValueError(f"its process said what cannot be read: {error}") from error

    async def _status(self) -> int:
        """Return how the process ended; one that only fell silent is killed."""
        try:
            async with asyncio.timeout(EXIT_S_MAX):
                return await exit_status(self._process)
        except TimeoutError:
            await self._kill()
            return await exit_status(self._process)

    async def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await exit_status(self._process)

    async def end(self) -> None:
        """End the process and what it has started; it has nothing to finish."""
        self.fit = False
        await self._kill()
        if self._stacks >= 0:
            os.close(self._stacks)
            self._stacks = -1
