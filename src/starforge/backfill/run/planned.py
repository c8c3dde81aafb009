"""Planned resumes: a backfill that was paused until some time goes on by itself when that has come.   (B-12)

Whoever coordinates looks every now and then. One whose checkpoint does not fit its partitions stays paused:
it is past its planned resume then, which is told, and looked at again after a while.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import structlog

from starforge.backfill.state.ages import AgeSettings
from starforge.backfill.state.integrity import blocking
from starforge.clock import monotonic_s
from starforge.db.pool import Connection
from starforge.db.statement import sql

log = structlog.get_logger("backfill")

AT_ONCE = 10
SPENT_S_MAX = 0.5
"""After so long the others wait for the next look: a comparison reads all of a backfill's partitions, and
those that run wait for this process meanwhile."""

AGAIN_S = 300.0
"""One that is not fit to go on is looked at again after so long: it takes a read of all its partitions."""


@dataclass(slots=True)
class Planned:
    """What one process knows of the resumes that are due."""

    unfit: dict[UUID, float] = field(default_factory=dict)
    """Backfills that must not go on, and when that was seen."""

    async def resume_due(self, conn: Connection) -> list[UUID]:
        """Resume what is due, in a transaction of its own; return the ids.

        Args:
            conn: A connection without a transaction, of a role that sees every tenant.
        """
        now_s = monotonic_s()
        self.unfit = {one: seen_s for one, seen_s in self.unfit.items() if now_s - seen_s < AGAIN_S}
        resumed = []
        async with conn.transaction():
            due = await conn.fetch(sql("backfill", "lock_due"), AT_ONCE, list(self.unfit))
            for place, row in enumerate(due):
                if place and monotonic_s() - now_s > SPENT_S_MAX:
                    break
                self.unfit[row["id"]] = now_s  # also where it takes longer than there is time for
                found = await blocking(conn, row["id"], row["tenant_id"])
                if found:
                    log.warning("backfill.unfit", job_id=str(row["id"]), asset=row["asset"], why=found[0])
                    continue
                await conn.fetch(
                    sql("backfill", "resume"),
                    [row["id"]],
                    row["tenant_id"],
                    row["planned_by"],
                    f"it was planned for {row['resume_at']:%Y-%m-%d %H:%M:%S} UTC",
                    AgeSettings.read().aged_s,
                    "planned resume",
                )
                del self.unfit[row["id"]]
                resumed.append(row["id"])
        for one in resumed:
            log.info("backfill.resumed", job_id=str(one), by="plan")
        return resumed
