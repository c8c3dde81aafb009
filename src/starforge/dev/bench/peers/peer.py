"""The peers, as data, and how each gets an environment of its own that is thrown away again."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starforge.dev.errors import BenchNotPossibleError

DRIVERS = Path(__file__).parent / "drivers"
INSTALL_S_MAX = 600.0
SAID_CHARS = 400


@dataclass(frozen=True, slots=True)
class Peer:
    """A queue to compare with."""

    name: str
    language: str
    packages: Sequence[str]
    program: str
    """File of its driver: setup, enqueue N, pickups N, work."""

    tuned: str
    """How it is run, in words, and where that is from."""

    live: str
    """SQL: is there a job that has not ended?"""

    share: float = 1.0
    """Share of the jobs that it is given: a slow one would keep the others waiting."""


PEERS = (
    Peer(
        "graphile-worker",
        "node",
        ("graphile-worker",),
        "with_graphile.mjs",
        "concurrentJobs 24, maxPoolSize 25, localQueue 500, completions and failures batched without delay"
        " (its page on performance); addJobs of 10 000",
        "SELECT EXISTS (SELECT FROM graphile_worker._private_jobs)",
    ),
    Peer(
        "pg-boss",
        "node",
        ("pg-boss",),
        "with_pgboss.mjs",
        "4 workers a process, batchSize 5000 (all of a batch succeed or fail together),"
        " pollingIntervalSeconds 0.5 (the shortest it accepts); insert of 10 000; no maintenance while it is"
        " measured; the newest version that runs on the Node that is here",
        "SELECT EXISTS (SELECT FROM pgboss.job WHERE state < 'completed' AND name IN ('noop', 'pickup'))",
    ),
    Peer(
        "pgqueuer",
        "python",
        ("pgqueuer[asyncpg]",),
        "with_pgqueuer.py",
        "asyncpg, uvloop, 2 managers a process with a connection each, batch_size 500, its autovacuum"
        " settings, durable tables (its pages on tuning and benchmarks); enqueue by lists of 10 000",
        "SELECT EXISTS (SELECT FROM pgqueuer)",
    ),
    Peer(
        "procrastinate",
        "python",
        ("procrastinate", "uvloop"),
        "with_procrastinate.py",
        "psycopg 3 with a pool, uvloop, concurrency 30, LISTEN and NOTIFY on; batch_defer of 10 000",
        "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))",
        share=0.04,
    ),
)


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer in its environment."""

    peer: Peer
    version: str
    command: Sequence[str]
    environment: Mapping[str, str]


async def install(peer: Peer, folder: Path) -> Installed:
    """Install a peer into an empty folder by the ordinary package manager of its language.

    Raises: BenchNotPossibleError with the end of what the package manager said.
    """
    if peer.language == "python":
        await _run([sys.executable, "-m", "venv", str(folder / "venv")], folder)
        python = str(folder / "venv" / "bin" / "python")
        await _run([python, "-m", "pip", "install", "--quiet", *peer.packages], folder)
        name = peer.packages[0].partition("[")[0]
        ask = f"from importlib.metadata import version; print(version({name!r}))"
        version = (await _run([python, "-c", ask], folder)).strip()
        return Installed(peer, version, (python, str(DRIVERS / peer.program)), {})
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise BenchNotPossibleError(f"{peer.name} needs node and npm, which are not on this machine")
    (folder / "package.json").write_text('{"private": true}')
    await _run([npm, "install", "--silent", "--no-audit", "--no-fund", *peer.packages], folder)
    manifest = folder / "node_modules" / peer.packages[0] / "package.json"
    version = json.loads(manifest.read_text("utf-8"))["version"]
    return Installed(
        peer, version, (node, str(DRIVERS / peer.program)), {"STARFORGE_BENCH_MODULES": str(folder)}
    )


async def _run(command: Sequence[str], folder: Path) -> str:
    """Run one step of an installation, and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(INSTALL_S_MAX):
            printed, said = await process.communicate()
    except TimeoutError:
        raise BenchNotPossibleError(f"{command[0]} did not end within {INSTALL_S_MAX:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise BenchNotPossibleError(f"{' '.join(command[1:4])}: {said.decode()[-SAID_CHARS:].strip()}")
    return printed.decode()
