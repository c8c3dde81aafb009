"""Snapshots over HTTP: one offered alone, and what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import msgspec
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from starforge.app import StarForge
from starforge.db.pool import Pool
from starforge.db.statement import sql
from starforge.errors import StarForgeError
from starforge.etl.errors import MalformedError
from starforge.etl.ingest.control import IngestControl, ingest_control
from starforge.etl.ingest.judge import Judged, judge
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receipt import Receipt
from starforge.etl.ingest.receive import Taking
from starforge.web.api.answer import SnapshotState, malformed, offered
from starforge.web.api.asked import Asked, asked, require_offers
from starforge.web.api.body import SPOOL_BYTES, Body, linger
from starforge.web.api.gather import Gather
from starforge.web.api.rate import Rates
from starforge.web.doors import Document
from starforge.web.errors import NoAnswerError, SnapshotUnknownError, UnauthorizedError
from starforge.web.guard import Asking
from starforge.web.problem import MEDIA_TYPE, problem_of
from starforge.web.reading import FIGURES_S, READ_ERRORS, Ahead, within
from starforge.web.settings import IngestSettings

LARGE_BYTES = 1 << 18
"""From here on a document is judged in a thread."""

LARGE_AT_ONCE = 2
"""Documents above LARGE_BYTES that are held in memory at once; others wait, arrived, on the disk."""


class Door:
    """What every ingest request passes: role, pause, rate; and what takes the snapshots.

    Args:
        pool: Where to.
        app: Whose mappings say which sources there are.
    """

    def __init__(self, pool: Pool, app: StarForge) -> None:
        self.pool, self.app = pool, app
        self.gather, self.rates = Gather(pool), Rates()
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._control = Ahead(self._look, wait_s=FIGURES_S)

    async def control(self) -> IngestControl:
        """Return what is paused, so that no body is read in vain; every transaction looks again."""
        try:
            return await self._control.get()
        except READ_ERRORS as error:
            raise NoAnswerError(
                f"the database did not answer: {str(error) or type(error).__name__}"
            ) from None

    async def _look(self) -> IngestControl:
        async with self.pool.connection() as conn:
            return await ingest_control(conn)


Answer = Callable[["Door", Asked, Body], Awaitable[Response]]


class Offering:
    """The ASGI endpoint of requests whose body is taken.

    Args:
        door: What every request passes.
        answer: Takes the body of a request whose head is in order, and returns the response.
        types: The Content-Types that its body may have.
        limit: The setting that says how many bytes it may have.
    """

    def __init__(self, door: Door, answer: Answer, *, types: tuple[str, ...], limit: str) -> None:
        self._door, self._answer, self._types, self._limit = door, answer, types, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; a sender that is refused before its body is over is told at once, and then cut off."""
        request = Request(scope)
        body: Body | None = None
        fields: dict[str, str] = {}
        try:
            await require_offers(self._door.pool, request)
            control = await self._door.control()
            control.require_open()
            what = asked(request, self._door.app, types=self._types)
            control.require_open(what.mapping.name)
            fields = self._door.rates.take(what.who.tenant, what.who.name)
            bytes_max = getattr(IngestSettings.read(), self._limit)
            body = Body(request.headers, receive, bytes_max=bytes_max, keeps_packed=what.keep)
            response = await self._answer(self._door, what, body)
        except ClientDisconnect:
            return
        except StarForgeError as error:
            response = problem_of(error, request.state.asking.request_id)
        finally:
            if body is not None:
                body.close()
        response.headers.update(fields)
        over = (body is not None and body.is_over) or _is_short(request)
        await response(scope, receive, send if over else _cutting_off(receive, send))


def _is_short(request: Request) -> bool:
    """Tell whether what is left of a body can be passed over, and the connection be kept."""
    declared = request.headers.get("content-length", "")
    return declared.isdigit() and int(declared) <= SPOOL_BYTES


def _cutting_off(receive: Receive, send: Send) -> Send:
    """Return a `send` that says goodbye: the answer is whole at once, the connection ends a little later."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
        if message["type"] != "http.response.body" or message.get("more_body", False):
            await send(message)
            return
        await send({**message, "more_body": True})
        await linger(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return sent


async def take_one(door: Door, what: Asked, body: Body) -> Response:
    """Take the one document of a body."""
    error: MalformedError | None = None
    try:
        await body.arrive()
    except MalformedError as found:
        error = found
        if what.keep:
            await body.rest()
    if body.size <= LARGE_BYTES and error is None:
        return await _take(door, what, judge(_offer(what, body.data()), what.mapping, what.captured_at))
    async with door.large:
        offer = _offer(what, body.data() if error is None else body.packed(), error)
        judged = await asyncio.to_thread(judge, offer, what.mapping, what.captured_at)
        return await _take(door, what, judged)


def _offer(what: Asked, data: bytes, error: MalformedError | None = None) -> Offer:
    return Offer(f"http {what.request_id}", data, error)


async def _take(door: Door, what: Asked, judged: Judged) -> Response:
    if judged.error is not None and not what.keep:
        return _refused(what, judged.error, kept=False)
    [taken] = await door.gather.take(what.who.tenant, [Taking(judged, what.ingest_key(judged.sha256))])
    if not isinstance(taken, Receipt):
        raise taken
    if taken.error is not None:
        response = _refused(what, taken.error, kept=taken.fate == "malformed", sha256=taken.sha256)
    else:
        response = _accepted(taken)
    if taken.repeated:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _accepted(receipt: Receipt) -> Response:
    found = offered(receipt)
    response = Document(found, 200 if receipt.fate == "duplicate" else 202)
    response.headers["Location"] = found.status_url
    return response


def _refused(what: Asked, error: StarForgeError, *, kept: bool, sha256: bytes | None = None) -> Response:
    if not isinstance(error, MalformedError):
        return problem_of(error, what.request_id)
    told = malformed(error, kept=kept, sha256=sha256, request_id=what.request_id)
    return Response(msgspec.json.encode(told), told.status, media_type=MEDIA_TYPE)


async def show_state(door: Door, request: Request) -> Response:
    """Answer with a snapshot's state; raise SnapshotUnknownError, also where it is another tenant's."""
    asking: Asking = request.state.asking
    who = asking.identity
    if who is None:
        raise UnauthorizedError("this needs a token")
    given = request.path_params["snapshot_id"]
    try:
        snapshot_id = UUID(given)
    except ValueError:
        raise SnapshotUnknownError("that is no snapshot's id") from None

    async def look() -> asyncpg.Record | None:
        async with door.pool.transaction(tenant=who.tenant) as conn:
            return await conn.fetchrow(sql("etl", "snapshot_state"), who.tenant, snapshot_id)

    try:
        row = await within(FIGURES_S, look())
    except READ_ERRORS as error:
        raise NoAnswerError(f"the database did not answer: {str(error) or type(error).__name__}") from None
    if row is None:
        raise SnapshotUnknownError(f"there is no snapshot {snapshot_id}")
    return Document(SnapshotState(**row))
