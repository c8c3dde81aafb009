"""The errors of the ETL room."""

from __future__ import annotations

from collections.abc import Mapping

from starforge.errors import MisusedError, NotFoundError, RefusedError, UnreachableError


class MalformedError(MisusedError):
    """The bytes are not JSON by the rules of `etl/guard.py`, or not the gzip they claim to be.

    `position` is the byte at fault, from 0; it is the length of the data where the document ends too
    early. `line` and `column` count from 1, the column in bytes.
    """

    code = "SF401"
    remedy = "Its bytes are kept in snapshot_quarantine: correct the producer and offer the snapshot again."
    http_status = 400

    def __init__(self, position: int, line: int, column: int, reason: str) -> None:
        super().__init__(f"malformed at line {line}, column {column} (byte {position}): {reason}")
        self.position, self.line, self.column, self.reason = position, line, column, reason

    @classmethod
    def at(cls, data: bytes, position: int, reason: str) -> MalformedError:
        """Make the error for byte `position` of `data`, with the line and column worked out."""
        line = data.count(b"\n", 0, position) + 1
        column = position - data.rfind(b"\n", 0, position)
        return cls(position, line, column, reason)


class TooLargeError(MisusedError):
    """A file, a line or what a gzip unpacks to is larger than StarForge reads into memory."""

    code = "SF402"
    remedy = "Split it into smaller snapshots, or raise STARFORGE_SNAPSHOT_INLINE_MAX_MB."

    def __init__(self, name: str, bytes_max: int) -> None:
        super().__init__(f"{name} is larger than {bytes_max} bytes")
        self.name, self.bytes_max = name, bytes_max


class UnreadableError(MisusedError):
    """A file or folder could not be read, or a folder holds no snapshot."""

    code = "SF403"
    remedy = "Check the name and the permissions of the file that the message names."

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


class IngestPausedError(RefusedError):
    """Ingestion is paused by the operator; nothing of what was offered was taken."""

    code = "SF410"
    remedy = "Offer it again later; `starforge ingest resume` ends the pause."
    http_status = 503

    def __init__(self, told: str, retry_after_s: int) -> None:
        super().__init__(f"ingestion is paused: {told}")
        self.told, self.retry_after_s = told, retry_after_s


class IngestNotPausedError(NotFoundError):
    """A resume was asked for while ingestion was not paused."""

    code = "SF411"
    remedy = "Nothing to do: snapshots are accepted."


class IngestKeyReusedError(RefusedError):
    """The idempotency key was used for another document, or for the same one offered another way."""

    code = "SF412"
    remedy = "Take a new key for each new document; keep a key only to repeat the very same offer."
    http_status = 422

    def __init__(self, key: str) -> None:
        super().__init__(f"idempotency key {key!r} was used for another offer")
        self.key = key


class MappingError(MisusedError):
    """A document does not hold what its mapping says it holds, at `path` ("" is the document itself)."""

    code = "SF415"
    remedy = "Correct the producer and offer the snapshot again, or let the mapping take what it sends."

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path or 'the document'}: {reason}")
        self.path, self.reason = path, reason


class MappingDeclarationError(MisusedError):
    """A mapping contradicts itself; it is refused where it is declared, before any document is read."""

    code = "SF416"
    remedy = "Correct the declaration that the message names; examples/fhir/README.md explains its words."


class DuplicateMappingError(MisusedError):
    """Two mappings were given for one source."""

    code = "SF417"
    remedy = "Give one of the two mappings another name; the name is the source that it maps."

    def __init__(self, source: str) -> None:
        super().__init__(f"source {source!r} has two mappings")
        self.source = source


class UnknownSourceError(NotFoundError):
    """No mapping is known for a source."""

    code = "SF418"
    remedy = "Name a source that has a mapping, or start with the app that declares it (--app)."

    def __init__(self, source: str, known: tuple[str, ...]) -> None:
        super().__init__(f"no mapping for source {source!r}; known: {', '.join(known) or 'none'}")
        self.source, self.known = source, known


class DocumentTimeoutError(RefusedError):
    """Judging or parsing one document took longer than a document of its size may take."""

    code = "SF430"
    remedy = "Offer it again when the machine is less busy, or raise STARFORGE_JSON_TIME_MAX_S."
    http_status = 503

    def __init__(self, spent_s: float, size_bytes: int, allowed_s: float) -> None:
        super().__init__(f"{size_bytes} bytes took {spent_s:.1f} s to read; {allowed_s:.1f} s are allowed")
        self.spent_s, self.size_bytes, self.allowed_s = spent_s, size_bytes, allowed_s


class ObjectKeyError(MisusedError):
    """A name is no key of the object store: it could lead out of it, or mean two things."""

    code = "SF431"
    remedy = "Use names of letters, digits and . _ - + = @ % between single slashes, none of them . or .. ."

    def __init__(self, key: str) -> None:
        super().__init__(f"{key[:200]!r} is no key of an object")
        self.key = key


class StoreNotAllowedError(MisusedError):
    """The setting of the object store names no kind of store that is allowed."""

    code = "SF432"
    remedy = (
        "Set STARFORGE_OBJECT_STORE to file:///folder, s3://bucket/prefix, gs://bucket/prefix or"
        " az://container/prefix; logins are the provider's own environment variables."
    )

    def __init__(self, url: str) -> None:
        super().__init__(f"the object store {url.partition('@')[2] or url!r} is not allowed")


class StoreUnreachableError(UnreachableError):
    """The object store does not answer."""

    code = "SF433"
    remedy = "See that the disk or the bucket's server is there (`starforge doctor`); nothing was changed."


class StoreRefusedError(RefusedError):
    """The object store answered and refused: no permission, no space, no such bucket."""

    code = "SF434"
    remedy = "Give this process the right to read, write, list and delete there; `starforge doctor` tries it."


class ObjectMissingError(NotFoundError):
    """The object store has no object of this key."""

    code = "SF435"
    remedy = "See that STARFORGE_OBJECT_STORE is the one it was written to, on every machine."


class RawMissingError(NotFoundError):
    """The raw bytes of a snapshot were asked for, and the tenant has no such snapshot."""

    code = "SF436"
    remedy = "Check the id and the tenant; an erased snapshot cannot be read."


class EntitiesFailedError(RefusedError):
    """Some entities of a large snapshot failed; the others are written, and an attempt more writes the rest.

    `failed` holds the error of each: one that waits for another has that one's.
    """

    code = "SF470"
    remedy = "See `starforge snapshot show` for the entities; mend the cause and retry the snapshot."

    def __init__(self, failed: Mapping[str, BaseException], of: int) -> None:
        first = next(iter(failed.values()))
        names = ", ".join(failed)
        super().__init__(f"{len(failed)} of {of} entities are not written ({names}): {first}")
        self.failed, self.first = dict(failed), first
