"""Fixtures of the worker's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from starforge.db.pool import Connection, connect
from tests.worker.marks import TABLE


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    """A connection to the test's own database, with the table of marks."""
    conn = await connect(database)
    await conn.execute(TABLE)
    yield conn
    await conn.close()
