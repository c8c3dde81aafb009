"""The example's app with an asset: what was observed on each day, counted and averaged by code."""

from __future__ import annotations

import asyncio
import importlib
import os

from starforge.app import StarForge
from starforge.backfill.partition.partition import Partition
from starforge.backfill.scheme.scheme import Window
from starforge.backfill.scheme.window import Daily
from starforge.db.pool import Connection
from starforge.etl.mapping import Mapping

TABLE = """
CREATE TABLE observation_days (
    tenant_id text, day date, code text, observations bigint, mean numeric,
    PRIMARY KEY (tenant_id, day, code)
);
"""
DAY = """
SELECT tenant_id, (effective_at AT TIME ZONE 'UTC')::date, code, count(*), avg(value::numeric)
FROM observations WHERE effective_at >= $1 AND effective_at < $2 GROUP BY 1, 2, 3
"""
DAY_S_ENV = "FHIR_DAY_S"

MAPPING: Mapping = importlib.import_module("examples.fhir.app").MAPPING

app = StarForge("fhir-days", mappings=[MAPPING])


@app.asset("observation_days", partitions=Daily("2019-01-01"), concurrency=4)
async def observation_days(day: Partition[Window], conn: Connection) -> None:
    """Write a day's rows; written twice, they would break the table's key."""
    await conn.execute(f"INSERT INTO observation_days {DAY}", day.bounds.start, day.bounds.end)
    await asyncio.sleep(float(os.environ.get(DAY_S_ENV, "0")))
