"""What an ingest request asks for: who, for which source, and how, before any of its body is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from starlette.datastructures import Headers
from starlette.requests import Request

from starforge.app import StarForge
from starforge.db.pool import Pool
from starforge.errors import InvalidInputError
from starforge.etl.ingest.key import IngestKey
from starforge.etl.mapping import Mapping
from starforge.etl.mapping.taken import require_taken
from starforge.ops.audit import DENIED, Entry, record
from starforge.ops.errors import RoleDeniedError
from starforge.ops.request import require_key
from starforge.web.auth import PRODUCER, Identity
from starforge.web.doors import KEY_HEADER
from starforge.web.errors import BadBodyError, EncodingError, UnauthorizedError
from starforge.web.guard import Asking

OFFERS = (PRODUCER, "operator", "admin")
"""Who may offer snapshots: producers may do nothing else, viewers may change nothing."""

PARAMETERS = ("source", "captured_at", "keep")
SOURCE = "hero"
YES, NO = ("true", "1", "yes"), ("false", "0", "no", "")
JSON_TYPES = ("application/json",)
LINE_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")


@dataclass(frozen=True, slots=True)
class Asked:
    """An ingest request, checked as far as its head goes."""

    who: Identity
    request_id: UUID
    mapping: Mapping
    captured_at: datetime | None
    keep: bool
    key: str | None

    def ingest_key(self, digest: bytes) -> IngestKey | None:
        """Return the key that came with a document of this digest, bound to all that was asked."""
        if self.key is None:
            return None
        captured_at = self.captured_at.isoformat() if self.captured_at else ""
        said = "\0".join((self.mapping.name, captured_at, str(self.keep)))
        return IngestKey(self.who.name, self.key, hashlib.sha256(said.encode() + digest).digest())


def asked(request: Request, app: StarForge, *, types: tuple[str, ...]) -> Asked:
    """Read the head of a request.

    Raises: UnauthorizedError, InvalidInputError, UnknownSourceError, BadBodyError, EncodingError.
    """
    asking: Asking = request.state.asking
    if asking.identity is None:
        raise UnauthorizedError("this needs a token")
    query = request.query_params
    if unknown := sorted(set(query) - set(PARAMETERS)):
        raise InvalidInputError(f"no parameter {', '.join(unknown)[:100]}; there are {', '.join(PARAMETERS)}")
    _require_type(request.headers, types)
    return Asked(
        asking.identity,
        asking.request_id,
        app.mappings.get(query.get("source", SOURCE)),
        _time(query.get("captured_at")),
        _yes("keep", query.get("keep", "")),
        _key(request.headers),
    )


async def require_offers(pool: Pool, request: Request) -> None:
    """Raise RoleDeniedError, with a row in the audit log, for who may not offer snapshots."""
    asking: Asking = request.state.asking
    who = asking.identity
    if who is None:
        raise UnauthorizedError("this needs a token")
    if who.role in OFFERS:
        return
    entry = Entry(
        who.tenant,
        who.name,
        who.role,
        DENIED,
        {"operation": "snapshot ingest", "needs": PRODUCER},
        request_id=asking.request_id,
        source_address=asking.source_address,
    )
    async with pool.transaction(tenant=who.tenant) as conn:
        await record(conn, entry)
    raise RoleDeniedError("snapshot ingest", f"{PRODUCER} or operator", who.role)


def _require_type(headers: Headers, types: tuple[str, ...]) -> None:
    """Raise EncodingError unless the body is declared as what is read here, in UTF-8."""
    essence, *parameters = (part.strip().lower() for part in headers.get("content-type", "").split(";"))
    fits = essence in types or (
        types is JSON_TYPES and essence.startswith("application/") and essence.endswith("+json")
    )
    if not fits:
        raise EncodingError(f"the Content-Type is {essence[:60] or 'not said'}, not {types[0]}")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise EncodingError(f"the charset is {value[:40]}; JSON is sent as UTF-8")


def _key(headers: Headers) -> str | None:
    given = headers.getlist(KEY_HEADER)
    if len(given) > 1:
        raise BadBodyError(f"the header {KEY_HEADER} is there {len(given)} times")
    key = given[0] if given else None
    require_key(key)
    return key


def _yes(name: str, value: str) -> bool:
    if value.lower() in YES:
        return True
    if value.lower() in NO:
        return False
    raise InvalidInputError(f"{name}={value[:40]}: write true or false")


def _time(value: str | None) -> datetime | None:
    """Read a time in ISO 8601; one without a zone is UTC. It may not lie ahead."""
    if not value:
        return None
    try:
        # The + of a zone that nobody escaped arrives as a space.
        time = datetime.fromisoformat(value.replace(" ", "+") if "T" in value else value)
    except ValueError:
        raise InvalidInputError(
            f"captured_at={value[:40]}: write a time as in 2026-01-31T12:00:00Z"
        ) from None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    require_taken(time)
    return time
