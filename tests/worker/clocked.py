"""An app for tests whose jobs come by the clock."""

from __future__ import annotations

from datetime import datetime

from starforge.app import StarForge
from starforge.queue.handler import Context
from tests.worker.marks import mark

app = StarForge("clocked")


@app.cron("0 3 * * *", tz="Europe/Berlin", missed="all")
@app.job("clocked.report")
async def report(ctx: Context, scheduled_at: datetime) -> None:
    await mark(ctx, f"{scheduled_at:%Y-%m-%dT%H:%M:%SZ}")
