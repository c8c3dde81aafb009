"""Locked: the row that every act on one backfill begins with, and the words for why an act is refused.

The row is locked first and judged then, so that two people, or a person and a coordinator, follow each
other and neither overwrites the other. Whoever gives the version that they saw is refused at another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta

from starforge.backfill.create.moment import shown
from starforge.backfill.errors import BackfillStateError, StaleVersionError, UnknownBackfillError
from starforge.backfill.state.author import author
from starforge.backfill.state.backfill import BACKFILL
from starforge.db.statement import sql
from starforge.operation import Caller

BackfillId = Annotated[UUID, "Id of the backfill."]
Version = Annotated[
    Annotated[int, Meta(ge=0)] | None, "Refuse unless the backfill still has this version, which looks show."
]
Why = Annotated[str, "Why; it stays with the backfill."]

SAMPLE_MAX = 10

PAST = {"pause": "paused", "resume": "resumed", "cancel": "cancelled", "reclaim": "reclaimed"}


@dataclass(frozen=True, slots=True)
class Locked:
    """A backfill's row, which nobody else changes until the transaction ends."""

    id: UUID
    asset: str
    job_type: str
    state: str
    version: int
    priority: int
    concurrency: int
    attempts_max: int
    failed_max: int
    sla_at: datetime | None
    total: int
    completed: int
    failed: int
    checkpoint: str | None
    paused_at: datetime | None
    resume_at: datetime | None
    completed_at: datetime | None
    error_message: str | None
    state_by: str | None
    state_reason: str | None
    changed: Mapping[str, Any] | None
    heartbeat_age_s: float | None
    now: datetime

    @property
    def terminal(self) -> bool:
        """It has ended, and its state never changes again."""
        return self.state in BACKFILL.terminal

    @property
    def named(self) -> str:
        """What summaries call it."""
        return f"backfill {self.id} of {self.asset}"

    def terms(self) -> dict[str, Any]:
        """Return what a plan holds on to: the counters move while people think."""
        return {"state": self.state, "version": self.version}

    def told(self) -> str:
        """Say in words what it is, since when, by whom and why: what goes after "it is"."""
        who, reason = author(asdict(self))
        why = f": {reason}" if reason else ""
        by = who or "somebody"
        said = f": {self.error_message}" if self.error_message else ""
        done = f"{self.completed} of {self.total} partitions completed and {self.failed} failed"
        ended = f"{self.state} since {shown(self.completed_at)}"
        match self.state:
            case "pending":
                return "pending and waits for a coordinator, or for the backfills before it"
            case "running":
                age = (
                    "none" if self.heartbeat_age_s is None else f"{max(0.0, self.heartbeat_age_s):.0f} s old"
                )
                return f"running, {done}, its heartbeat is {age}"
            case "paused":
                return f"paused since {shown(self.paused_at)} by {by}{why}"
            case "resuming":
                return f"resuming, as {by} asked{why}; no coordinator has taken it yet"
            case "cancelled":
                return f"{ended}{said}"
            case _:
                return f"{ended} with {done}{said}"

    def next_for(self, verb: str) -> str:
        """Name the command that works where `verb` does not."""
        ours = f"starforge backfill {{}} {self.id}"
        match self.state:
            case "completed" if not self.failed:
                return f"to do it again: {ours.format('clone')} --reason TEXT"
            case "completed" | "failed":
                return f"to do what failed in a new backfill: {ours.format('retry-failed')}"
            case "cancelled":
                return f"to do the rest in a new backfill: {ours.format('clone')} --unfinished --reason TEXT"
            case "paused":
                return f"to let it run: {ours.format('resume')}"
            case "running" if verb == "resume":
                return f"to have another coordinator take it: {ours.format('reclaim')}"
            case "resuming":
                wait = "workers take it by themselves, and starforge worker ls shows which live"
                return f"{wait}; to stop it: {ours.format('pause')}"
            case "running":
                return f"to stop it: {ours.format('pause')}"
            case _:
                return f"workers start it by themselves; to hold it back: {ours.format('pause')}"

    def require(self, verb: str) -> None:
        """Raise BackfillStateError, with the state and the command that works there, unless `verb` may be."""
        if self.state not in BACKFILL.sources(verb):
            self.refuse(f"cannot be {PAST[verb]}", verb)

    def refuse(self, cannot: str, verb: str = "") -> None:
        """Raise BackfillStateError with the state in words and the command that works."""
        raise BackfillStateError(f"{self.named} {cannot}, for it is {self.told()}; {self.next_for(verb)}")


def follow(backfill_id: UUID | str) -> str:
    """Return the command that follows a backfill to its end."""
    return f"starforge backfill status --watch {backfill_id}"


def afterwards(made_id: UUID, *, planning: bool) -> dict[str, str]:
    """Return what makes sense once a backfill is made; what is planned has no id yet that will be its own."""
    which = "ID" if planning else str(made_id)
    return {
        "to follow it": follow(which),
        "to stop it": f"starforge backfill cancel {which} --reason TEXT",
    }


async def locked(caller: Caller, backfill_id: UUID, expect_version: int | None = None) -> Locked:
    """Return the caller's tenant's backfill, locked until the transaction ends.

    Raises: UnknownBackfillError; StaleVersionError where its version is not `expect_version`.
    """
    row = await caller.conn.fetchrow(sql("backfill", "lock_one"), backfill_id, caller.tenant)
    if row is None:
        raise UnknownBackfillError(backfill_id)
    found = Locked(**row)
    if expect_version is not None and found.version != expect_version:
        raise StaleVersionError(
            f"{found.named} has version {found.version} by now and not {expect_version}:"
            f" {_changed_by(found)}; it is {found.told()}. Look first: starforge backfill status {found.id}"
            f" and then repeat it with --expect-version {found.version}"
        )
    return found


def _changed_by(found: Locked) -> str:
    """Say who changed it last: an operation leaves its name; a version without one was made by hand."""
    last = found.changed or {}
    if last.get("version") == found.version:
        return f"{last.get('by')} changed it last, by {last.get('operation')} at {_when(last.get('at'))}"
    if last:
        after = f"{last.get('by')} did, by {last.get('operation')}"
        return f"a statement by hand, or the engine, changed it after {after}"
    return "no operation changed it, so a statement by hand or the engine did"


def _when(at: object) -> str:
    try:
        return f"{datetime.fromisoformat(str(at)):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return str(at)
