"""What a drain is measured with: how many workers, of which kind, with which features."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starforge.clock import new_id
from starforge.db.server import Database
from starforge.dev.bench.features import Feature, environment, fields, prepare
from starforge.dev.bench.fleet import Fleet, fleet, started
from starforge.dev.bench.load import PAYLOAD, TYPE, Make, drain, enqueue_all, hold, settle, warm
from starforge.dev.bench.place import Place, place
from starforge.queue.job import NewJob


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to run the workers."""

    processes: int = 1
    concurrency: int = 32
    role: str = "engine"
    """Database role of producer and workers: engine (bound by row security) or admin."""

    features: Sequence[Feature] = ()
    type: str = TYPE
    through: int | None = None
    """Port of a pooler before the server."""

    def job(self, number: int) -> NewJob:
        """Make job number `number`, with what the features set on it."""
        return NewJob(self.type, PAYLOAD, id=new_id(), **fields(self.features, number))

    def pickup(self, number: int) -> NewJob:
        """Make a job that writes down when it was started, with what the features set on it."""
        return NewJob("bench.pickup", {"n": number}, **fields(self.features, number))


@asynccontextmanager
async def running(server: Database, setup: Setup) -> AsyncIterator[tuple[Place, Fleet]]:
    """Run the workers on a database of their own for the length of a `with` block; they are warm."""
    async with place(server, setup.role, through=setup.through) as here:
        await prepare(setup.features, here.admin)
        async with fleet(
            here.url,
            processes=setup.processes,
            concurrency=setup.concurrency,
            environment=environment(setup.features),
        ) as workers:
            await started(here.admin, setup.processes)
            await warm(here, setup.job)
            yield here, workers


async def enqueue_and_drain(
    here: Place, workers: Fleet, setup: Setup, jobs: int, *, make: Make | None = None
) -> tuple[float, float]:
    """Enqueue so many jobs while the queue is held, let them drain; return both rates per second."""
    await hold(here.admin)
    enqueued_per_s = await enqueue_all(here.conn, jobs, make or setup.job)
    await settle(here.admin)
    return enqueued_per_s, (await drain(here, workers, jobs)).per_s
