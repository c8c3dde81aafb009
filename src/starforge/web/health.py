"""Whether the process lives, whether it can serve, and its figures for Prometheus."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from starforge import __version__
from starforge.db.migrate import check_version
from starforge.db.pool import Pool
from starforge.errors import StarForgeError
from starforge.telemetry import metrics
from starforge.telemetry.process import Memory, memory_of
from starforge.telemetry.state import State
from starforge.web.doors import Document
from starforge.web.reading import FIGURES_S, HEALTH_S, Reading, reading
from starforge.worker.state import read_state


def add_health(app: FastAPI, pool: Pool) -> None:
    """Add /healthz, /readyz and /metrics."""

    async def schema() -> int:
        async with reading(pool) as conn:
            return await check_version(conn, what="this server")

    async def state() -> State:
        async with reading(pool) as conn:
            return await read_state(conn)

    schema_now, state_now = Reading(schema, wait_s=HEALTH_S), Reading(state, wait_s=FIGURES_S)

    @app.get("/healthz", tags=["health"], summary="The process lives.")
    async def healthz() -> Response:
        return Document({"alive": True, "version": __version__})

    @app.get("/readyz", tags=["health"], summary="The database answers and its schema is served.")
    async def readyz() -> Response:
        found: dict[str, Any] = {"ready": True, "version": __version__, "reasons": []}
        try:
            found["schema"] = await schema_now.get()
        except StarForgeError as error:
            found |= {"ready": False, "reasons": [error.document()]}
        return Document(found, 200 if found["ready"] else 503)

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics.")
    async def metrics_page() -> Response:
        try:
            shown = await state_now.get()
        except StarForgeError:
            # The gauges are left out, never frozen, and starforge_database_up says why.
            shown = None
        metrics.tell_memory("server", memory_of(os.getpid()) or Memory())
        return Response(metrics.page(shown), media_type=metrics.CONTENT_TYPE)
