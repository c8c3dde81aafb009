"""Who brought a backfill into its state, where that is known.                                        (B-46)

Operations, and the engine's own rules, leave a name and a reason. A statement by hand leaves neither, and the
ones that are kept then are those of whoever moved the backfill before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncpg import Record

ITSELF = ("breaker", "canary", "coordinator")
"""What the engine calls itself; its own changes are no operations."""

LEADING = {
    "paused": ("pause",),
    "resuming": ("resume",),
    "running": ("resume",),
    "cancelled": ("cancel", "clone"),
}
"""The verbs of the operations that lead to a state."""


def author(row: Mapping[str, Any] | Record) -> tuple[str | None, str | None]:
    """Return who brought a row of `backfill_jobs` into its state and why, each None where that is not known.

    The row has state, version, state_by, state_reason and changed.
    """
    said = row["state_by"], row["state_reason"]
    last = row["changed"] or {}
    if row["state_by"] in ITSELF or "operation" not in last or last.get("version") == row["version"]:
        return said
    verb = str(last["operation"]).removeprefix("backfill ").split("-")[0]
    # Of what another operation left behind it is not known whether a statement by hand came in between.
    return (None, None) if verb != "set" and verb not in LEADING.get(row["state"], (verb,)) else said
