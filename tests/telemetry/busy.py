"""An app for tests: one job that ends well and one that fails."""

from __future__ import annotations

from starforge.app import StarForge

app = StarForge("busy")


@app.job("busy.work")
async def work(n: int) -> None: ...


@app.job("busy.fail", retry=1)
async def fail() -> None:
    raise OSError("no route")
