"""The first page: what waits, what runs, what is held back, and what went wrong, as of one moment."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import FastAPI
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from starforge import __version__
from starforge.db.pool import Connection, Pool
from starforge.db.statement import sql
from starforge.errors import StarForgeError
from starforge.etl.ingest.control import IngestControl, ingest_control
from starforge.etl.snapshot.latest import (
    LastError,
    LastSnapshot,
    last_errors,
    last_snapshots,
    snapshots_of_the_hour,
)
from starforge.queue.gate import Gate, closed_gates
from starforge.queue.reads import (
    Depth,
    LiveWorker,
    Throughput,
    dead_letters,
    depths,
    live_workers,
    throughput,
)
from starforge.web.reading import FIGURES_S, Reading, reading

REFRESH_S = 2
REFRESH_WITHOUT_SCRIPT_S = 5
ERRORS_SHOWN = 6
STATUSES = ("running", "paused", "failed", "quarantined")
FATES = ("processed", "superseded", "received", "failed", "quarantined")
"""What becomes of a snapshot, in the order in which the page says it."""


@dataclass(frozen=True, slots=True)
class Lane:
    """The jobs of one queue and type, by status."""

    queue: str
    type: str
    waiting: int
    delayed: int
    by_status: dict[str, int]
    oldest_s: float | None
    paused: bool


@dataclass(frozen=True, slots=True)
class Now:
    """Everything that the page shows, read in one transaction."""

    at: datetime
    lanes: list[Lane]
    speed: Throughput
    dead: dict[str, int]
    workers: list[LiveWorker]
    gates: list[Gate]
    ingest: IngestControl
    snapshots: list[LastSnapshot]
    of_the_hour: dict[str, int]
    errors: list[LastError]

    @property
    def waiting(self) -> int:
        return sum(lane.waiting for lane in self.lanes)

    @property
    def running(self) -> int:
        return sum(lane.by_status["running"] for lane in self.lanes)

    @property
    def oldest_s(self) -> float | None:
        return max((lane.oldest_s for lane in self.lanes if lane.oldest_s is not None), default=None)

    @property
    def unserved(self) -> list[str]:
        """Queues in which jobs wait and that no live worker serves."""
        served = {queue for worker in self.workers for queue in worker.queues}
        return sorted({lane.queue for lane in self.lanes if lane.waiting and lane.queue not in served})


async def read_now(conn: Connection) -> Now:
    """Read what the page shows."""
    gates = await closed_gates(conn)
    paused = {gate.name for gate in gates if gate.scope == "queue"}
    return Now(
        at=await conn.fetchval(sql("web", "now")),
        lanes=lanes(await depths(conn), paused),
        speed=await throughput(conn),
        dead=await dead_letters(conn),
        workers=await live_workers(conn),
        gates=gates,
        ingest=await ingest_control(conn),
        snapshots=await last_snapshots(conn),
        of_the_hour=dict.fromkeys(FATES, 0) | await snapshots_of_the_hour(conn),
        errors=await last_errors(conn, ERRORS_SHOWN),
    )


def lanes(found: list[Depth], paused: set[str]) -> list[Lane]:
    """Put the statuses of a queue and type into one line; paused queues first, then by what waits."""
    grouped: dict[tuple[str, str], list[Depth]] = {}
    for depth in found:
        grouped.setdefault((depth.queue, depth.type), []).append(depth)
    made = []
    for (queue, job_type), group in grouped.items():
        by_status = {depth.status: depth for depth in group}
        pending = by_status.get("pending")
        made.append(
            Lane(
                queue=queue,
                type=job_type,
                waiting=pending.due if pending else 0,
                delayed=pending.jobs - pending.due if pending else 0,
                by_status={name: by_status[name].jobs if name in by_status else 0 for name in STATUSES},
                oldest_s=pending.oldest_due_s if pending else None,
                paused=queue in paused,
            )
        )
    return sorted(made, key=lambda lane: (not lane.paused, -lane.waiting, lane.queue, lane.type))


def add_now(app: FastAPI, pool: Pool, *, title: str) -> None:
    """Add the first page, and the part of it that is fetched again and again."""

    async def read() -> Now:
        async with reading(pool) as conn:
            return await read_now(conn)

    shared = Reading(read, wait_s=FIGURES_S)
    templates = environment()

    async def page(template: str) -> Response:
        shown: dict[str, Any] = {
            "title": title,
            "version": __version__,
            "refresh_s": REFRESH_S,
            "refresh_without_script_s": REFRESH_WITHOUT_SCRIPT_S,
            "statuses": STATUSES,
            "fates": FATES,
            "now": None,
            "error": None,
        }
        try:
            shown["now"] = await shared.get()
        except StarForgeError as error:
            shown["error"] = error
        return HTMLResponse(templates.get_template(template).render(shown), 503 if shown["error"] else 200)

    @app.get("/", include_in_schema=False)
    async def first_page() -> Response:
        return await page("now.html")

    @app.get("/now", include_in_schema=False)
    async def fragment() -> Response:
        return await page("_now.html")


def environment() -> Environment:
    """Return the templates' environment: everything is escaped, a misspelt name is an error."""
    made = Environment(
        loader=PackageLoader("starforge.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"span": span, "size": size, "count": count, "rate": rate, "quoted": shlex.quote}
    return made


def span(seconds: float | None) -> str:
    """Say a span of time in its two largest units at most: 850 ms, 12 s, 3 min 20 s, 5 h 2 min, 4 d."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{max(0, seconds) * 1000:.0f} ms"
    whole = int(seconds)
    for unit_s, name, next_s, next_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // next_s
            return f"{whole // unit_s} {name}" + (f" {rest} {next_name}" if rest else "")
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def size(size_bytes: int) -> str:
    """Say a size in decimal units: 912 B, 48 kB, 2.9 MB."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1000:.0f} kB"
    return f"{size_bytes / 1_000_000:.1f} MB"


def count(number: int | None) -> str:
    """Say a number with narrow spaces between the thousands."""
    return "–" if number is None else f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def rate(per_s: float) -> str:
    """Say a rate with as many digits as it deserves: 0.3, 12, 4 800."""
    return f"{per_s:.1f}" if 0 < per_s < 10 else count(round(per_s))
