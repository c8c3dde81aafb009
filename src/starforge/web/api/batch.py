"""A batch over HTTP: NDJSON, taken line by line; one bad line spoils no other.

The answer begins when the request has been read: a client that sends all before it listens, as most do, would
else wait for a server that waits for it. Until then the answers lie in a file, so that neither the lines nor
the answers of a large batch are in memory.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
from starlette.responses import Response, StreamingResponse

from starforge.errors import StarForgeError
from starforge.etl.errors import IngestPausedError, TooLargeError
from starforge.etl.ingest.judge import Judged, judge
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receipt import Receipt
from starforge.etl.ingest.receive import BATCH_BYTES_MAX, BATCH_OFFERS_MAX, Taking
from starforge.web.api.answer import REFUSED, BatchEnd, Fault, LineAnswer, fault, line_answer
from starforge.web.api.asked import Asked
from starforge.web.api.body import SPOOL_BYTES, Body
from starforge.web.api.lines import Lines
from starforge.web.api.snapshots import LARGE_BYTES, Door
from starforge.web.errors import BadBodyError
from starforge.web.settings import IngestSettings

MEDIA_TYPE = "application/x-ndjson"
ANSWER_BYTES = 1 << 16
UNKNOWN = "unknown"
"""The fate of lines whose transaction's end was not heard of: offering them again does no harm."""


async def take_batch(door: Door, what: Asked, body: Body) -> Response:
    """Take the documents of a body, one a line; raise what stood in the way of the very first ones."""
    if what.key is not None:
        raise BadBodyError("a batch takes no Idempotency-Key: its lines are known again by their content")
    batch = _Batch(door, what)
    lines = Lines(IngestSettings.read().bytes_max)
    stopped: StarForgeError | None = None
    try:
        async for piece in body.pieces():
            for number, line in lines.feed(piece):
                await batch.add(number, line)
        for number, line in lines.end():
            await batch.add(number, line)
    except StarForgeError as error:
        stopped = error
    try:
        await batch.flush()
    except StarForgeError as error:
        stopped = stopped or error
    if stopped is not None and not batch.taken:
        batch.close()
        raise stopped
    return StreamingResponse(batch.answer(stopped), media_type=MEDIA_TYPE)


class _Batch:
    """The lines that were read and are not taken yet, and the answers to those that are."""

    def __init__(self, door: Door, what: Asked) -> None:
        self._door, self._what = door, what
        self._held: list[tuple[int, Judged | LineAnswer]] = []
        self._size = 0
        self._answers = tempfile.SpooledTemporaryFile[bytes](SPOOL_BYTES)
        self._fates: Counter[str] = Counter()
        self.taken = False

    async def add(self, number: int, line: bytes | None) -> None:
        """Judge a line (None: too long), and take those that are held when they are enough."""
        what = self._what
        if number > 1:
            await self._door.rates.paced(what.who.tenant, what.who.name)
        held = await self._judged(number, line)
        self._held.append((number, held))
        self._size += held.size if isinstance(held, Judged) else 0
        if len(self._held) >= BATCH_OFFERS_MAX or self._size >= BATCH_BYTES_MAX:
            await self.flush()
        else:
            await asyncio.sleep(0)  # other requests have their turn between two lines

    async def _judged(self, number: int, line: bytes | None) -> Judged | LineAnswer:
        what = self._what
        if line is None:
            bytes_max = IngestSettings.read().bytes_max
            return LineAnswer(number, REFUSED, 0, error=fault(TooLargeError(f"line {number}", bytes_max)))
        offer = Offer(f"http {what.request_id}:{number}", line)
        try:
            if len(line) > LARGE_BYTES:
                judged = await asyncio.to_thread(judge, offer, what.mapping, what.captured_at)
            else:
                judged = judge(offer, what.mapping, what.captured_at)
        except StarForgeError as error:  # it took too long, say
            return LineAnswer(number, REFUSED, len(line), error=fault(error))
        if judged.error is not None and not what.keep:
            return LineAnswer(number, REFUSED, len(line), error=fault(judged.error))
        return judged

    async def flush(self) -> None:
        """Take what is held, in order; raise what kept it from being taken, which its lines say too."""
        held, self._held, self._size = self._held, [], 0
        takings = [Taking(judged) for _, judged in held if isinstance(judged, Judged)]
        try:
            taken = iter(await self._door.gather.take(self._what.who.tenant, takings) if takings else ())
        except StarForgeError as error:
            for number, judged in held:
                self._write(judged if isinstance(judged, LineAnswer) else _untaken(number, judged, error))
            raise
        refused: StarForgeError | None = None
        for number, judged in held:
            if isinstance(judged, LineAnswer):
                self._write(judged)
                continue
            one = next(taken)
            if isinstance(one, Receipt):
                self._write(line_answer(number, one))
                self.taken = True
            else:
                self._write(_untaken(number, judged, one))
                refused = one
        if refused is not None:
            raise refused

    def _write(self, line: LineAnswer) -> None:
        self._fates[line.fate] += 1
        self._answers.write(msgspec.json.encode(line) + b"\n")

    async def answer(self, stopped: StarForgeError | None) -> AsyncIterator[bytes]:
        """Give the answers, the end of the batch last."""
        error = None if stopped is None else fault(stopped)
        end = BatchEnd(stopped is None, self._fates.total(), dict(self._fates), error)
        self._answers.write(msgspec.json.encode(end) + b"\n")
        self._answers.seek(0)
        try:
            while piece := self._answers.read(ANSWER_BYTES):
                yield piece
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the answers."""
        self._answers.close()


def _untaken(number: int, judged: Judged, error: StarForgeError) -> LineAnswer:
    fate = REFUSED if isinstance(error, IngestPausedError) else UNKNOWN
    return LineAnswer(number, fate, judged.size, error=Fault(error.code, str(error)))
