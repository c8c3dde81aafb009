"""Reprocess: the stored snapshots of a window become rows once more, by the code that processes new ones.

What a backfill of a SnapshotRange runs for each of its partitions. The watermarks that guard new snapshots
guard these too: an entity of a subject is written where its newest capture lies in the window, and what a
later capture has followed changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import datetime
from typing import Any, Literal, cast
from uuid import UUID

import structlog

from starforge.backfill.asset.revision import revision_of
from starforge.backfill.partition.blame import Blame, blame
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.scheme import SnapshotWindow
from starforge.clock import failpoint
from starforge.db.pool import Connection
from starforge.etl.document.guard import MB
from starforge.etl.errors import EntitiesFailedError, MappingUnfitError
from starforge.etl.gears.limits import process_settings
from starforge.etl.load.job import note_failure, process_snapshot
from starforge.etl.mapping import Mapping, Mappings
from starforge.etl.snapshot.snapshot import HIGHMEM_TYPE
from starforge.etl.snapshot.stretch import LOWEST_ID, By, Stored, begin_again, page
from starforge.loop import backoff_s
from starforge.queue.context import Context
from starforge.queue.enqueue import enqueue_many
from starforge.queue.job import NewJob
from starforge.queue.outcome import PermanentError, Quarantined
from starforge.settings import Settings, setting

log = structlog.get_logger("snapshot")

PAGE = 200
"""Snapshots between two notes of how far the window is; their documents are never in memory together."""

AT_ONCE = 4
"""Small snapshots that are processed at once, so that they share transactions; larger ones go alone."""

TRIES = 3
"""How often a snapshot is tried that a lock, a deadlock or the time kept from getting through."""

JUDGED_LEAST = 100
"""Snapshots after which a window is given up that fails too often; a smaller one is judged at its end."""

Outcome = Literal["processed", "failed", "held", "handed_on"]
Handler = Callable[[Partition[SnapshotWindow], Context], Awaitable[None]]


class ReprocessSettings(Settings):
    """What processing stored snapshots again bears."""

    failed_share_max: float = setting(
        0.05,
        env="STARFORGE_BACKFILL_SNAPSHOTS_FAILED",
        unit="share",
        meaning="Share of a window's snapshots that may fail when they are processed again.",
        ge=0,
        le=1,
    )


def snapshot_range_handler(mappings: Mappings, *, failed_share_max: float | None = None) -> Handler:
    """Return the handler of a SnapshotRange's partitions.

    Args:
        mappings: How documents become rows, by their source.
        failed_share_max: Share of a window's snapshots that may fail, 0 to 1; else as the settings say.
    """

    async def reprocess(partition: Partition[SnapshotWindow], ctx: Context) -> None:
        share = ReprocessSettings.read().failed_share_max if failed_share_max is None else failed_share_max
        mappings.get(partition.bounds.source)  # unknown: that is no snapshot's fault
        await _Window(partition, ctx, mappings, share).run()

    return reprocess


def version_of(mapping: Mapping) -> str:
    """Return what differs where a mapping would make other rows of the same documents."""
    layout = mapping.layout
    lies = layout.roots, layout.ignored, layout.known, layout.refuse_unknown
    told = repr(_told([list(mapping.tables.values()), lies]))
    return f"mapping:{hashlib.sha256(told.encode(errors='replace')).hexdigest()[:16]}"


def _told(value: Any) -> Any:
    """Return a value such that its repr is the same in every process: without addresses, sets in order."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = [(each.name, _told(getattr(value, each.name))) for each in fields(value) if each.repr]
        return type(value).__name__, kept
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, map(_told, value)))
    if isinstance(value, dict):
        return [(repr(name), _told(one)) for name, one in value.items()]
    if isinstance(value, (list, tuple)):
        return list(map(_told, value))
    if isinstance(value, type):
        return value.__qualname__
    return (getattr(value, "__qualname__", ""), revision_of(value)) if callable(value) else value


@dataclass(frozen=True, slots=True)
class Reprocessed:
    """What a window's attempts have done together."""

    processed: int = 0
    failed: int = 0
    """Noted in etl_errors as a new one's failure is."""

    held: int = 0
    """Left alone: quarantined, or waiting for a catalogue."""

    handed_on: int = 0
    """Given to high-memory workers as jobs of their own; they end after the window does."""

    @property
    def seen(self) -> int:
        return self.processed + self.failed + self.held + self.handed_on

    def __add__(self, other: Reprocessed) -> Reprocessed:
        added = {name: count + getattr(other, name) for name, count in asdict(self).items()}
        return Reprocessed(**added)


class _Window:
    """One attempt's way through a window."""

    def __init__(
        self,
        partition: Partition[SnapshotWindow],
        ctx: Context,
        mappings: Mappings,
        failed_share_max: float,
    ) -> None:
        self.partition, self.ctx, self.mappings = partition, ctx, mappings
        self.failed_share_max = failed_share_max
        kept = partition.cursor or {}
        self.done = Reprocessed(**kept.get("done", {}))
        self.after = (partition.bounds.start, LOWEST_ID)
        if kept:
            self.after = datetime.fromisoformat(kept["at"]), UUID(kept["id"])

    async def run(self) -> None:
        while stored := await self._page():
            outcomes = await self._all(stored)
            handed_on = [one for one, outcome in zip(stored, outcomes, strict=True) if outcome == "handed_on"]
            await self._keep(stored[-1], _counted(outcomes), handed_on)
            self.ctx.progress(self.done.seen, message=f"at {self.after[0].isoformat()}")
            await self._bear(ended=False)
            self.ctx.check()
        await self._bear(ended=True)
        log.info("snapshots.reprocessed", partition=self.partition.key, **asdict(self.done))

    async def _page(self) -> list[Stored]:
        window = self.partition.bounds
        async with self.ctx.pool.transaction(tenant=self.ctx.tenant) as conn:
            found = await page(
                conn,
                tenant=self.ctx.tenant,
                source=window.source,
                by=cast(By, window.by),
                end=window.end,
                after=self.after,
                most=PAGE,
            )
            await begin_again(conn, [one.snapshot_id for one in found])
        return found

    async def _all(self, stored: list[Stored]) -> list[Outcome]:
        """Process a page: the small ones several at once, then the others one by one."""
        together_max = process_settings().together_max_mb * MB
        outcomes: dict[int, Outcome] = {}
        small = [place for place, one in enumerate(stored) if one.size_bytes <= together_max]

        async def some(places: Iterator[int]) -> None:
            for place in places:
                outcomes[place] = await self._one(stored[place])

        places = iter(small)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(some(places))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        await some(place for place in range(len(stored)) if place not in outcomes)
        return [outcomes[place] for place in range(len(stored))]

    async def _one(self, stored: Stored) -> Outcome:
        if stored.lane != "normal":
            return "handed_on" if stored.lane == "highmem" else "held"
        payload = _payload(stored)
        for tries in range(1, TRIES + 1):
            try:
                await process_snapshot(self.ctx, payload, self.mappings)
            except Quarantined:
                return "held"
            except PermanentError as error:
                await self._failed(stored, error)
                return "failed"
            except Exception as error:
                where = _blame(error)
                if where == "elsewhere":
                    raise
                if where == "rows" or tries == TRIES:
                    await self._failed(stored, error)
                    return "failed"
                await asyncio.sleep(backoff_s(tries, first_s=0.2, most_s=2.0))
            else:
                return "processed"
        raise AssertionError("the last try ends in one way or another")

    async def _failed(self, stored: Stored, error: Exception) -> None:
        async with self.ctx.pool.transaction(tenant=self.ctx.tenant) as conn:
            await note_failure(
                conn,
                error,
                snapshot_id=stored.snapshot_id,
                tenant=self.ctx.tenant,
                job_id=self.ctx.job.id,
                final=True,
            )

    async def _keep(self, last: Stored, done: Reprocessed, handed_on: list[Stored]) -> None:
        """Keep how far the window is, together with the jobs that others are given."""
        total = self.done + done
        kept = {"at": last.at.isoformat(), "id": str(last.id), "done": asdict(total)}
        async with self.ctx.pool.transaction(tenant=self.ctx.tenant) as conn:
            await self._hand_on(conn, handed_on)
            await self.partition.advance(kept, conn)
            failpoint("reprocess_before_commit")
        self.done, self.after = total, (last.at, last.id)
        failpoint("reprocess_after_commit")

    async def _hand_on(self, conn: Connection, stored: Iterable[Stored]) -> None:
        jobs = [NewJob(HIGHMEM_TYPE, _payload(one), tenant=self.ctx.tenant) for one in stored]
        if jobs:
            await enqueue_many(conn, jobs)

    async def _bear(self, *, ended: bool) -> None:
        """Raise PermanentError where too many failed; who retries the partition begins at its start."""
        failed, seen = self.done.failed, self.done.seen
        if failed <= self.failed_share_max * seen or not (ended or seen >= JUDGED_LEAST):
            return
        await self.partition.advance(None)
        source, key = self.partition.bounds.source, self.partition.key
        raise PermanentError(
            f"{failed} of {seen} snapshots of {source} failed in window {key}, more than the"
            f" {self.failed_share_max:.1%} that are borne: etl_errors has each, under job {self.ctx.job.id}"
        )


def _blame(error: BaseException) -> Blame:
    """Tell where the error of a snapshot lies; of one that failed in parts, where the worst of them does."""
    if isinstance(error, MappingUnfitError):
        return "elsewhere"
    if not isinstance(error, EntitiesFailedError):
        return blame(error)
    found = {_blame(one) for one in error.failed.values()}
    return "elsewhere" if "elsewhere" in found else "moment" if "moment" in found else "rows"


def _payload(stored: Stored) -> dict[str, Any]:
    payload = {"snapshot_id": str(stored.snapshot_id)}
    return payload if stored.capture_id is None else {**payload, "capture_id": str(stored.capture_id)}


def _counted(outcomes: Iterable[Outcome]) -> Reprocessed:
    found = Reprocessed()
    for outcome in outcomes:
        found = replace(found, **{outcome: getattr(found, outcome) + 1})
    return found
