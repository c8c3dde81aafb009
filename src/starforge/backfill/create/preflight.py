"""Preflight: what speaks against a backfill before it is there.                          (B-67, F-68)

Some of it refuses, and can be overridden with a reason; the rest is told. What cannot be told from the
database, as of disks that are elsewhere, is not guessed.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg

from starforge.backfill.asset.asset import Asset, Assets
from starforge.backfill.asset.upstream import Upstream
from starforge.backfill.create.facts import DatabaseFacts
from starforge.backfill.create.options import Options
from starforge.backfill.create.overlap import free, overlaps, refusal
from starforge.backfill.errors import MapsElsewhereError
from starforge.backfill.partition.gates import before_partitions
from starforge.backfill.partition.partition import QUEUE
from starforge.backfill.scheme.keyed import KeyRange, Static
from starforge.backfill.scheme.scheme import Span, merged, ranges
from starforge.backfill.select.select import command
from starforge.backfill.select.selection import AnyPart, Selection, counted
from starforge.db.budget import read_budget
from starforge.db.pool import Connection, PoolSettings
from starforge.db.statement import sql
from starforge.errors import shortened
from starforge.queue.gate import closed_gates, held
from starforge.queue.known import workers_knowing
from starforge.settings import HomeSettings

BACKFILLS_PAST = 5
PARTITIONS_PAST = 2000
FAILED_SHARE_WARNS = 0.05
FAILED_SHARE_REFUSES = 0.2
"""B-07 alerts at this share: what the same code did the last time, it will do again."""

ERROR_CHARS_MAX = 200
PARTITION_BYTES = 2_000
"""What a partition takes on disk until it is history: its row, its job, the log of both; rounded up."""

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that whoever asked should know first."""

    check: str
    """overlap, worker, gate, upstream, catalogue, connections, disk, failures or duration."""

    asset: str
    text: str
    refuses: bool = False

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"check": self.check, "asset": self.asset, "text": self.text, "refuses": self.refuses}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a part may take, from earlier backfills of the asset; nothing where there is none."""

    seen: int
    """Partitions that it rests on."""

    low_s: float
    """With every partition as the median was."""

    high_s: float
    """With every partition as the ninth of ten was."""

    def told(self) -> str:
        """Return it in words."""
        return f"{_time(self.low_s)} to {_time(self.high_s)}, by {counted(self.seen)} of earlier backfills"


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found for a selection."""

    findings: tuple[Finding, ...]
    estimates: dict[str, Estimate]
    """By asset, where there is one."""

    @property
    def refusing(self) -> list[Finding]:
        """Those that refuse and that a reason overrides; what the database refuses, nothing does."""
        return [found for found in self.findings if found.refuses and found.check != "overlap"]


Check = Callable[[Connection, AnyPart], Awaitable[list[Finding]]]

ALSO: list[Check] = []
"""What other rooms look at."""


def also(check: Check) -> Check:
    """Have another room's check be made with every preflight."""
    ALSO.append(check)
    return check


async def preflight(
    conn: Connection, assets: Assets, selection: Selection, options: Options, *, tenant: str
) -> Preflight:
    """Look at what a selection needs and what became of those before it; nothing is written."""
    look = _Look(conn, assets, selection, options, tenant)
    estimates = {}
    for part in selection.parts:
        for check in look.checks():
            await check(part)
        for other in ALSO:
            look.findings += await other(conn, part)
        found = await look.duration(part)
        if found is not None:
            estimates[part.asset.name] = found
    await look.disk()
    return Preflight(tuple(look.findings), estimates)


class _Look:
    def __init__(
        self, conn: Connection, assets: Assets, selection: Selection, options: Options, tenant: str
    ) -> None:
        self._conn, self._assets, self._selection = conn, assets, selection
        self._options, self._tenant = options, tenant
        self.findings: list[Finding] = []

    def checks(self) -> tuple[Callable[[AnyPart], Awaitable[None]], ...]:
        return (self.overlap, self.worker, self.gate, self.upstream, self.connections, self.failures)

    def _found(self, check: str, asset: Asset, text: str, *, refuses: bool = False) -> None:
        self.findings.append(Finding(check, asset.name, text, refuses))

    async def overlap(self, part: AnyPart) -> None:
        found = await overlaps(self._conn, part, self._tenant)
        if found:
            self._found("overlap", part.asset, refusal(part, found), refuses=True)

    async def worker(self, part: AnyPart) -> None:
        """Tell whether somebody would run it."""
        name = part.asset.job_type
        if await workers_knowing(self._conn, QUEUE, name):
            return
        if (await held(self._conn, "type", name)).known:
            text = f"no live worker runs {name} in queue {QUEUE} now: it waits until one that does is started"
            self._found("worker", part.asset, text)
            return
        text = f"no worker has ever known {name}: deploy the app that declares asset {part.asset.name} first"
        self._found("worker", part.asset, text, refuses=True)

    async def gate(self, part: AnyPart) -> None:
        for gate in before_partitions(await closed_gates(self._conn), part.asset.job_type, self._tenant):
            text = f"{gate.scope} {gate.name} {gate.told} ({gate.owner}: {gate.reason}); `{gate.undo}`"
            self._found("gate", part.asset, text)

    async def upstream(self, part: AnyPart) -> None:
        """Tell which partitions upstream were not made, where the backfill does not make them itself."""
        included = {each.asset.name for each in self._selection.parts}
        for edge in part.asset.upstream:
            if edge.name not in included:
                await self._covered(part, edge)

    async def _covered(self, part: AnyPart, edge: Upstream) -> None:
        above, name = self._assets.get(edge.name), part.asset.name
        try:
            wanted = self._assets.inputs(part.asset, edge, part.spans)
        except MapsElsewhereError:
            text = f"whether its upstream {edge.name} is complete, only the app that declares {name} can tell"
            self._found("upstream", part.asset, text)
            return
        places = await self._places(above, wanted)
        ranged = isinstance(above.partitions, KeyRange)
        row = await self._conn.fetchrow(
            sql("backfill", "uncovered"), self._tenant, edge.name, ranges(places), ranged
        )
        assert row is not None
        missing = [(each.lower, each.upper) for each in row["missing"]]
        if not missing:
            return
        if not row["backfills"]:
            text = f"its upstream {edge.name} was never backfilled; what it has, others made"
            self._found("upstream", part.asset, f"{text}; --include-upstream makes all of it first")
            return
        live = await self._conn.fetchrow(
            sql("backfill", "overlapping"), self._tenant, edge.name, row["missing"], 1
        )
        self._found("upstream", part.asset, _missing(above, missing, live), refuses=True)

    async def _places(self, above: Asset, wanted: list[Span]) -> list[Span]:
        """Return the ordinals of an upstream's places."""
        scheme = above.partitions
        if not isinstance(scheme, Static):
            return wanted
        ordinals = await DatabaseFacts(self._conn, registering=False).ordinals(above.name, scheme.names)
        found = [ordinals[key] for key, _ in scheme.listed(wanted)]
        return merged((ordinal, ordinal + 1) for ordinal in found)

    async def connections(self, part: AnyPart) -> None:
        """Hold the concurrency against what the server and the live workers have."""
        wanted = self._options.concurrency or part.asset.slots
        budget = await read_budget(self._conn)
        if wanted > budget.capacity:
            text = (
                f"concurrency {wanted} is more than the server has connections for all:"
                f" {budget.arithmetic()}; ask for less"
            )
            self._found("connections", part.asset, text, refuses=True)
        elif budget.workers and wanted > budget.shares:
            text = (
                f"concurrency {wanted} is more than the {budget.shares} connections that the live workers"
                f" have, so no more run at once; the server has {budget.free} left for more workers"
            )
            self._found("connections", part.asset, text)

    async def failures(self, part: AnyPart) -> None:
        rows = await self._conn.fetch(
            sql("backfill", "past_failures"), self._tenant, part.asset.name, BACKFILLS_PAST
        )
        ended = [(row, row["completed_partitions"] + row["failed_partitions"]) for row in rows]
        ended = [(row, count) for row, count in ended if count]
        if not ended:
            return
        last, count = ended[0]
        failed, total = sum(row["failed_partitions"] for row, _ in ended), sum(count for _, count in ended)
        share = last["failed_partitions"] / count
        error = f", most often: {shortened(last['error'], ERROR_CHARS_MAX)}" if last["error"] else ""
        same = last["code_version"] == part.asset.version
        if share > FAILED_SHARE_REFUSES:
            text = (
                f"its last backfill, {last['id']}, had {share:.0%} of its partitions fail{error};"
                f" {'the code is the same' if same else 'the code has changed since'}"
            )
            self._found("failures", part.asset, text, refuses=same)
        elif failed / total > FAILED_SHARE_WARNS:
            several = "backfill" if len(ended) == 1 else f"{len(ended)} backfills"
            text = f"{failed / total:.0%} of the partitions of its last {several} failed{error}"
            self._found("failures", part.asset, text)

    async def duration(self, part: AnyPart) -> Estimate | None:
        """Estimate how long it takes, and hold that against its SLA."""
        row = await self._conn.fetchrow(
            sql("backfill", "past_durations"), self._tenant, part.asset.name, BACKFILLS_PAST, PARTITIONS_PAST
        )
        assert row is not None
        if not row["partitions"]:
            return None
        rounds = part.total / (self._options.concurrency or part.asset.slots) / 1000
        found = Estimate(row["partitions"], row["median_ms"] * rounds, row["p90_ms"] * rounds)
        now = await DatabaseFacts(self._conn, registering=False).now()
        sla_at = self._options.sla_at(now)
        if sla_at is not None and found.low_s > (left_s := (sla_at - now).total_seconds()):
            text = f"it takes {found.told()}; its SLA ends in {_time(left_s)}: raise --concurrency or --sla"
            self._found("duration", part.asset, text)
        return found

    async def disk(self) -> None:
        """Tell whether its rows have room, where the database's disk is this machine's."""
        if PoolSettings.read().url:
            return
        home = HomeSettings.read().home
        if not home.exists():
            return
        free, needed = shutil.disk_usage(home).free, self._selection.total * PARTITION_BYTES
        if needed * 2 > free:
            text = f"its rows may take {needed // MB} MB and {free // MB} MB are free for {home}"
            self._found("disk", self._selection.asked.asset, text, refuses=needed > free)


def _missing(above: Asset, missing: list[Span], live: asyncpg.Record | None) -> str:
    """Return in words which partitions upstream were not made, and what makes them; `live`: who does now."""
    scheme = above.partitions
    total = sum(map(scheme.count, missing))
    are, first = "is" if total == 1 else "are", f"{counted(total)} of its upstream {above.name}"
    if live is not None:  # another one beside it would be refused
        rest = free(missing, [(span.lower, span.upper) for span in live["shared"]])
        told = f"backfill {live['id']} ({live['state']}) is to make {'some of ' if rest else ''}them"
        return f"{first} {are} not completed; {told}: `starforge backfill status --watch {live['id']}`"
    if scheme.registers:
        return f"{first} {are} not completed; --include-upstream makes all of it first"
    ends = scheme.first_key(missing), scheme.last_key(missing)
    which = ends[0] if total == 1 else f"{ends[0]} … {ends[1]}"
    narrow = f"{command(above, *ends)} makes them, " if len(missing) == 1 else ""
    return f"{first} ({which}) {are} not completed; {narrow}--include-upstream makes all of it first"


def _time(seconds: float) -> str:
    """Return a time in one unit, or two."""
    for size, unit, smaller, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = int(seconds % size // smaller)
            return f"{int(seconds // size)} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{seconds:.3g} s"
