"""`starforge bench peers`: other queues beside ours on one server, in interleaved rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starforge import __version__
from starforge.db.pool import connect
from starforge.db.server import Database
from starforge.dev.bench.calibrate import calibrate
from starforge.dev.bench.features import shown as settings
from starforge.dev.bench.figures import Report, conditions, ratios, shown, spread
from starforge.dev.bench.peers.peer import PEERS, Installed, install
from starforge.dev.bench.peers.stand import Round, Stand, measure, ours, theirs
from starforge.dev.bench.setup import Setup
from starforge.dev.errors import BenchNotPossibleError, BenchStalledError

PROCESSES = (1, 2)
OURS = "StarForge"
BEST = "graphile-worker"
"""The fastest of the peers: ours is divided by it."""

Open = Callable[[int], AbstractAsyncContextManager[Stand]]


@dataclass(slots=True)
class Entrant:
    """A queue that takes part."""

    name: str
    version: str
    tuned: str
    jobs: int
    open: Open
    rounds: dict[int, list[Round]] = field(default_factory=lambda: {processes: [] for processes in PROCESSES})
    failure: str = ""

    def figures(self) -> dict[str, Any]:
        """Return the medians with their spread, or why there are none."""
        about = {"version": self.version, "tuned": self.tuned, "jobs": self.jobs}
        if self.failure:
            return {**about, "failure": self.failure}
        return {**about, "by_processes": {str(n): _summed(rounds) for n, rounds in self.rounds.items()}}


def _summed(rounds: Sequence[Round]) -> dict[str, Any]:
    return {
        "enqueue_per_s": spread([each.enqueue_per_s for each in rounds]),
        "drain_per_s": spread([each.drain_per_s for each in rounds]),
        "pickup_ms": {name: spread([each.pickup_ms[name] for each in rounds]) for name in ("p50", "p99")},
    }


async def bench_peers(
    server: Database,
    setup: Setup,
    *,
    jobs: int,
    names: Sequence[str],
    rounds: int,
    pickups: int,
    report: Report,
) -> dict[str, Any]:
    """Install the peers, measure each and StarForge in turn, and throw the environments away.

    Args:
        server: Where each gets an empty database of its own.
        setup: How StarForge's workers run.
        jobs: Jobs that each drains; slow peers are given a share of it, which the figures name.
        names: Peers to measure; all where empty.
        rounds: How often each is measured.
        pickups: Jobs whose pick-up is timed.
        report: Called with a line about each phase.
    """
    async with AsyncExitStack() as stack:
        slots = f"{setup.concurrency} slots a process; enqueue_many of 10 000"
        entrants = [Entrant(OURS, __version__, slots, jobs, lambda n: ours(server, setup, n))]
        for peer in PEERS:
            if names and peer.name not in names:
                continue
            entrant = Entrant(peer.name, "–", peer.tuned, max(100, int(jobs * peer.share)), _absent)
            entrants.append(entrant)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="starforge-bench-peer-")))
            report(f"installing {peer.name}")
            try:
                installed = await install(peer, folder)
            except (BenchNotPossibleError, OSError) as error:
                entrant.failure = f"could not be installed: {error}"
                report(f"  {entrant.failure}")
                continue
            entrant.version, entrant.open = installed.version, _opened(server, installed)
        calibration = await _rounds(server, entrants, rounds, pickups, report)
        admin = await connect(server.url("admin"))
        try:
            about = await conditions(admin)
        finally:
            await admin.close()
    return {
        "peers": {entrant.name: entrant.figures() for entrant in entrants},
        f"to_{BEST}": _compared(entrants),
        "calibration_per_s": spread(calibration),
        "features": settings(setup.features),
        "rounds": rounds,
        "server": about,
    }


async def _rounds(
    server: Database, entrants: Sequence[Entrant], rounds: int, pickups: int, report: Report
) -> list[float]:
    calibration = []
    for number in range(1, rounds + 1):
        calibration.append(await calibrate(server))
        for processes in PROCESSES:
            for entrant in entrants:
                if entrant.failure:
                    continue
                try:
                    async with entrant.open(processes) as stand:
                        found = await measure(stand, entrant.jobs, pickups)
                except (BenchNotPossibleError, BenchStalledError) as error:
                    entrant.failure = f"failed in round {number} with {processes} process(es): {error}"
                    report(f"  {entrant.name} {entrant.failure}")
                    continue
                entrant.rounds[processes].append(found)
                report(
                    f"round {number} of {rounds}: {entrant.name}, {processes} process(es):"
                    f" {shown(found.enqueue_per_s):g} enqueued/s, {shown(found.drain_per_s):g} drained/s,"
                    f" pick-up p50 {found.pickup_ms['p50']:g} ms"
                )
    return calibration


def _compared(entrants: Sequence[Entrant]) -> dict[str, Any]:
    """Return ours ÷ the best peer's, round by round."""
    by_name = {entrant.name: entrant for entrant in entrants}
    us, best = by_name[OURS], by_name.get(BEST)
    if best is None or best.failure or us.failure:
        return {}
    return {
        str(processes): ratios(
            [each.drain_per_s for each in us.rounds[processes]],
            [each.drain_per_s for each in best.rounds[processes]],
        )
        for processes in PROCESSES
    }


def _opened(server: Database, installed: Installed) -> Open:
    return lambda processes: theirs(server, installed, processes)


def _absent(processes: int) -> AbstractAsyncContextManager[Stand]:
    raise BenchNotPossibleError(f"it is not installed for {processes} process(es)")


def table(figures: dict[str, Any]) -> str:
    """Return the figures as the table of docs/benchmarks.md."""
    server = figures["server"]
    lines = [
        f"Postgres {server['postgres']}, fsync {server['fsync']}, synchronous_commit"
        f" {server['synchronous_commit']}, {server['cores']} cores; {figures['rounds']} interleaved rounds,"
        f" median (least–most); load average {', '.join(map(str, server['load_average']))} at the end;"
        f" calibration {_cell(figures['calibration_per_s'])} rows/s.",
        "",
        "| | version | enqueued/s | drained/s, 1 process | drained/s, 2 | pick-up p50, ms | p99, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, peer in figures["peers"].items():
        if "failure" in peer:
            lines.append(f"| {name} | {peer['version']} | {peer['failure']} | | | | |")
            continue
        one, two = peer["by_processes"]["1"], peer["by_processes"]["2"]
        cells = [
            name, peer["version"], _cell(one["enqueue_per_s"]), _cell(one["drain_per_s"]),
            _cell(two["drain_per_s"]), _cell(one["pickup_ms"]["p50"]), _cell(one["pickup_ms"]["p99"]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for processes, ratio in figures[f"to_{BEST}"].items():
        lines.append(f"{OURS} ÷ {BEST}, {processes} process(es), round by round: {_cell(ratio)}.")
    lines += ["", "How each is run:", ""]
    lines += [f"- {name}: {peer['tuned']}; {peer['jobs']} jobs" for name, peer in figures["peers"].items()]
    on = [f"{name} ({setting})" for name, setting in figures["features"].items() if setting != "off"]
    lines.append(f"- {OURS}'s features that are on: {'; '.join(on)}")
    return "\n".join(lines) + "\n"


def _cell(value: dict[str, Any]) -> str:
    return f"{value['median']:,g} ({value['least']:,g}–{value['most']:,g})".replace(",", " ")
