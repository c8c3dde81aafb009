"""What a program gives to `app.ingest`: the bytes of a document, or a value that is made into one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from starforge.errors import InvalidInputError
from starforge.etl.ingest.judge import Judged, judge
from starforge.etl.ingest.offers import Offer
from starforge.etl.mapping import Mapping

NAME = "app.ingest"


def given(data: Any, mapping: Mapping, captured_at: datetime | None) -> Judged:
    """Judge what a program gives; raise InvalidInputError where it cannot be made into JSON.

    Args:
        data: bytes or text, taken as the document as it is; anything else is encoded.
        mapping: The mapping of its source.
        captured_at: When it was taken; a time without a zone is UTC.
    """
    if captured_at is not None and captured_at.tzinfo is None:
        captured_at = captured_at.replace(tzinfo=UTC)
    return judge(Offer(NAME, _document(data)), mapping, captured_at)


def _document(data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    try:
        return data.encode() if isinstance(data, str) else msgspec.json.encode(data)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidInputError(f"the snapshot cannot be made into JSON: {error}") from None
