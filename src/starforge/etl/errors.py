"""The errors of the ETL room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from starforge.errors import MisusedError, NotFoundError, RefusedError, UnreachableError


class MalformedError(MisusedError):
    """The bytes are not JSON by the rules of `etl/document/guard.py`, or not the gzip they claim to be.

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


class SourcePausedError(IngestPausedError):
    """Ingestion of this source is paused by the operator; nothing of what was offered of it was taken."""

    code = "SF413"
    remedy = "Offer it again later; `starforge source resume NAME` ends the pause. Other sources are taken."

    def __init__(self, source: str, told: str, retry_after_s: int) -> None:
        RefusedError.__init__(self, f"ingestion of source {source!r} is paused: {told}")
        self.source, self.told, self.retry_after_s = source, told, retry_after_s


class SourceNotPausedError(NotFoundError):
    """A resume was asked for while ingestion of the source was not paused."""

    code = "SF414"
    remedy = "Nothing to do for this source; `starforge ingest resume` ends a pause of all."


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


class CapturedAheadError(MisusedError):
    """A document is said to have been taken at a time that lies ahead."""

    code = "SF419"
    remedy = (
        "Give the time at which it was taken, with its zone; it would supersede all that comes until then."
        " Seconds and milliseconds since 1970 are easily mistaken for each other."
    )
    http_status = 422


class MappingError(MisusedError):
    """A document does not hold what its mapping says it holds, at `path` ("" is the document itself).

    `value` is what lies there instead, where that is one value; it is shown redacted only.
    """

    code = "SF415"
    remedy = "Correct the producer and offer the snapshot again, or let the mapping take what it sends."

    def __init__(self, path: str, reason: str, *, value: Any = None) -> None:
        super().__init__(f"{path or 'the document'}: {reason}")
        self.path, self.reason, self.value = path, reason, value


class MappingDeclarationError(MisusedError):
    """A mapping contradicts itself; it is refused where it is declared, before any document is read."""

    code = "SF416"
    remedy = "Correct the declaration that the message names; docs/mappings.md explains its words."

    def __init__(self, reason: str, at: str = "") -> None:
        super().__init__(f"{at}: {reason}" if at else reason)
        self.reason, self.at = reason, at


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
    remedy = "The errors of the snapshot name the entities; mend the cause: its next attempt writes the rest."

    def __init__(self, failed: Mapping[str, BaseException], of: int) -> None:
        first = next(iter(failed.values()))
        names = ", ".join(failed)
        super().__init__(f"{len(failed)} of {of} entities are not written ({names}): {first}")
        self.failed, self.first = dict(failed), first


class MappingUnfitError(RefusedError):
    """The tables of this database lack something that a mapping writes; other sources are not affected."""

    code = "SF440"
    remedy = "Run the migration that makes them (`starforge mapping ddl` prints one), or correct the mapping."

    def __init__(self, source: str, faults: list[str]) -> None:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"the mapping of source {source!r} does not fit the database: {faults[0]}{more}")
        self.source, self.faults = source, faults


class UndraftableError(MisusedError):
    """No mapping can be proposed from these snapshots."""

    code = "SF441"
    remedy = "Give more snapshots of one source, or --subject FIELD; docs/mappings.md shows how to write one."


class CatalogueGapError(RefusedError):
    """A document refers to entries that a catalogue lacks, and is to wait for them."""

    code = "SF443"
    remedy = "Add the entries (`starforge catalog seed`): what waits goes on within seconds."

    def __init__(self, catalogue: str, key: str, missing: list[Any], *, owner: str = "") -> None:
        ids = ", ".join(map(str, missing[:10])) + (f" …, {len(missing)} in all" if len(missing) > 10 else "")
        told = f"; ask {owner}" if owner else ""
        super().__init__(f"{catalogue} lacks what it refers to: {ids}{told}")
        self.catalogue, self.key, self.missing, self.owner = catalogue, key, missing, owner


class NoCatalogueError(MisusedError):
    """A table is no catalogue, or an entry does not fit it."""

    code = "SF444"
    remedy = "Name a catalogue that a mapping refers to, with entries that have its columns."


class ModeNotSetError(NotFoundError):
    """The mode of a source was to be reset and nobody had switched it."""

    code = "SF445"
    remedy = "Nothing to do: the source is read as its mapping says."


class NoOffenderError(NotFoundError):
    """No snapshot failed like that, or no batch has that name."""

    code = "SF446"
    remedy = (
        "`starforge etl offenders` shows which constraints and fingerprints failed; try a longer --within."
    )


class NoFastParserError(UnreachableError):
    """The C library that parses streams is missing; without it large documents take hours and gigabytes."""

    code = "SF437"
    remedy = "Install ijson from a wheel of this platform, or build it where yajl's headers are installed."


class UnknownSnapshotError(NotFoundError):
    """The caller's tenant has no snapshot with this id."""

    code = "SF450"
    remedy = "Check the id, and TENANT_ID: `starforge snapshot list` shows the tenant's snapshots."

    def __init__(self, snapshot_id: UUID, tenant: str) -> None:
        super().__init__(f"tenant {tenant!r} has no snapshot {snapshot_id}")
        self.snapshot_id = snapshot_id


class SnapshotBytesError(RefusedError):
    """What is kept under this id is bytes that are no JSON: they cannot become rows as they are."""

    code = "SF451"
    remedy = (
        "Take the bytes out (`starforge snapshot export ID --raw -o FILE`), mend them, and offer the file"
        " again (`starforge snapshot ingest FILE`)."
    )

    def __init__(self, quarantine_id: UUID, name: str | None, source: str | None, reason: str) -> None:
        super().__init__(
            f"{quarantine_id} is bytes of {name or 'no name'} from source {source!r}, no snapshot: {reason}"
        )
        self.quarantine_id = quarantine_id


class NoRetentionRuleError(NotFoundError):
    """A rule of retention was to end that does not exist."""

    code = "SF452"
    remedy = "Look which rules there are: `starforge retention list`."

    def __init__(self, kind: str, source: str) -> None:
        whose = f"source {source!r}" if source else "all sources"
        super().__init__(f"there is no rule of its own for how long {kind} of {whose} are kept")


class SubjectBusyError(RefusedError):
    """A snapshot of the subject is being processed: its rows would come back."""

    code = "SF453"
    remedy = "Ask again when these jobs have ended: `starforge task ls --state running`."

    def __init__(self, jobs: int) -> None:
        super().__init__(
            f"nothing was erased: {jobs} jobs that process snapshots of this subject are running"
        )


class UntraceableError(RefusedError):
    """Nothing leads from a table's rows to their subject, so what is his cannot be told from the rest."""

    code = "SF454"
    remedy = (
        "Give the table a foreign key to the subject's table, or a Ref to it in the mapping; then ask again."
    )

    def __init__(self, source: str, tables: tuple[str, ...]) -> None:
        super().__init__(
            f"nothing was erased: of source {source!r} nothing leads from {', '.join(tables)} to a subject"
        )


class StillReferredError(RefusedError):
    """A table outside the mapping refers to the subject's rows."""

    code = "SF455"
    remedy = "Erase the subject in that table first, or let its foreign key cascade; then ask again."

    def __init__(self, table: str | None, constraint: str | None) -> None:
        super().__init__(f"nothing was erased: rows of {table} refer to the subject ({constraint})")
