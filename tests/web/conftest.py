"""A client of the application, and tokens of every role."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest

from starforge.db.pool import Pool
from starforge.operation import OPERATIONS
from starforge.ops import registry
from starforge.web.auth import make_token
from starforge.web.serve import create_app

Bearer = Callable[..., Awaitable[dict[str, str]]]


@pytest.fixture
async def client(pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application over the test's database, without a token."""
    async with client_of(pool) as made:
        yield made


def client_of(pool: Pool, *, exposed: bool = False) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(pool, exposed=exposed))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:8080")


@pytest.fixture
def bearer(pool: Pool) -> Bearer:
    """Make a token and return the header that carries it."""

    async def make(role: str = "operator", *, name: str = "ann", tenant: str = "default") -> dict[str, str]:
        async with pool.connection() as conn:
            token = await make_token(conn, name=name, role=role, tenant=tenant)
        return {"Authorization": f"Bearer {token}"}

    return make


@pytest.fixture
def declared() -> Iterator[None]:
    """Take the operations away again that a test declares."""
    registry.load()
    before = dict(OPERATIONS)
    yield
    OPERATIONS.clear()
    OPERATIONS.update(before)
