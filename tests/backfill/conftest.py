"""After every test of backfills: what they say is what their partitions say."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from starforge.db.pool import Pool
from tests.backfill.sound import assert_sound


@pytest.fixture
async def sound(pool: Pool) -> AsyncIterator[None]:
    """Check it where the test ends."""
    yield
    async with pool.connection() as conn:
        await assert_sound(conn)
