"""Verify: does what a backfill says of itself hold against its partitions?               (B-35, D-14)

One report of three comparisons: its checkpoint and counters against the partitions' rows (checkpoint.py);
partitions that run against the jobs of the queue; and, where it has ended, its end against its own rule: no
backfill is completed with fewer terminal partitions than it has, or with more failed ones than it tolerates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from starforge.backfill.select.selection import counted
from starforge.backfill.show.status import explanation
from starforge.backfill.state.checkpoint import Finding, Verdict
from starforge.backfill.state.integrity import integrity
from starforge.db.pool import Connection
from starforge.db.statement import sql


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    id: UUID
    asset: str
    state: str
    checkpoint: str | None
    """What the checkpoint is by the partitions' rows."""

    total: int
    completed: int
    failed: int
    open: int
    findings: list[Finding]
    blocks: bool
    """Something of it must be mended before the backfill goes on, or its result is trusted."""


@dataclass(frozen=True, slots=True)
class Offence:
    """A backfill that has ended against its own rule."""

    id: UUID
    asset: str
    state: str
    offence: str


async def verify(conn: Connection, backfill_id: UUID, tenant: str) -> Report:
    """Compare all that a backfill says with its partitions; in a transaction that sees one moment.

    Raises: UnknownBackfillError.
    """
    verdict = await integrity(conn, backfill_id, tenant)
    asset, state, *_ = await explanation(conn, backfill_id)
    found = [*verdict.findings, *await _astray(conn, backfill_id, tenant)]
    found += [Finding(one.offence, blocks=True) for one in await accounts(conn, backfill_id, tenant=tenant)]
    return _report(backfill_id, asset, state, verdict, found)


async def accounts(
    conn: Connection, backfill_id: UUID | None = None, *, tenant: str | None = None
) -> list[Offence]:
    """Return the backfills that have ended against their own rule; [] where all is well.

    Args:
        conn: Of a role that sees them.
        backfill_id: Only this one; None: every one.
        tenant: Only of this tenant; None: of all.
    """
    return [Offence(**row) for row in await conn.fetch(sql("backfill", "accounts"), backfill_id, tenant)]


async def _astray(conn: Connection, backfill_id: UUID, tenant: str) -> list[Finding]:
    row = await conn.fetchrow(sql("backfill", "astray"), backfill_id, tenant)
    assert row is not None
    return list(_told(row["count"], row["keys"]))


def _told(count: int, keys: list[str] | None) -> Iterator[Finding]:
    if count:
        more = f" and {count - len(keys)} more" if keys and count > len(keys) else ""
        yield Finding(
            f"by their rows {counted(count)} run{'s' if count == 1 else ''}, and by no job of the queue:"
            f" {', '.join(keys or ())}{more}; the coordinator gives out again what is so",
            blocks=False,
        )


def _report(backfill_id: UUID, asset: str, state: str, verdict: Verdict, findings: list[Finding]) -> Report:
    return Report(
        backfill_id,
        asset,
        state,
        verdict.checkpoint,
        verdict.total,
        verdict.completed,
        verdict.failed,
        verdict.open,
        findings,
        any(finding.blocks for finding in findings),
    )
