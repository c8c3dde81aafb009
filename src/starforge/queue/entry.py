"""The entry of a job: checked, its defaults filled in, its payload as JSON text; refused if it is wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from starforge.errors import UNSTORABLE
from starforge.queue.errors import JobOptionError, PayloadError, PayloadTooLargeError
from starforge.queue.hint import Hint
from starforge.queue.job import HISTORY_STATUSES, LIVE_STATUSES, JobSettings, Key, NewJob
from starforge.settings import HomeSettings

NAME_CHARS_MAX = 200
"""Longest type, queue and limit key: with the tenant they are in one index, whose entries are bounded."""

TENANT_CHARS_MAX = 64
TAGS_MAX = 20
TAG_CHARS_MAX = 100
TRACE_CHARS_MAX = 200
KEY_BYTES_MAX = 512
PRIORITY_MAX = 1000
"""Each priority that has jobs costs the claim an index probe of its own: not any number will do."""

ATTEMPTS_MAX = 1000
SECONDS_MAX = 10 * 366 * 86400.0
"""Longest delay, timeout and period of a key: ten years. More is a slip of the unit."""

SILENT = (set, frozenset, bytes, bytearray, memoryview)
"""What the encoder would turn into a list or into base64 without a word."""

as_told = attrgetter(
    "tenant", "queue", "type", "priority", "max_attempts", "run_after", "delay_s", "limit_key", "timeout_s"
)  # fmt: skip
"""What a job says of itself beside payload, tags, trace, key; where it is equal, jobs are of one kind."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Kind(NamedTuple):
    """What an enqueue says of a job beside id, payload, trace and key, in the order of enqueue.sql."""

    tenant_id: str
    queue: str
    type: str
    priority: int
    max_attempts: int
    run_after: datetime | None
    delay_s: float | None
    limit_key: str
    tags: str | None
    timeout_s: float | None

    @property
    def lane(self) -> Hint:
        """The lane that a worker finds it in."""
        return Hint(self.queue, self.type, self.priority, self.tenant_id, self.limit_key)

    @property
    def is_due(self) -> bool:
        """Tell whether it may start at once, by this machine's clock: it decides about a hint only."""
        return not self.delay_s and (self.run_after is None or self.run_after <= datetime.now(UTC))


def kind_of(job: NewJob) -> Kind:
    """Check all that a job says of itself beside its payload; raise JobOptionError with the field."""
    _text(job, "type", job.type, NAME_CHARS_MAX)
    _text(job, "queue", job.queue, NAME_CHARS_MAX)
    _text(job, "limit_key", job.limit_key, NAME_CHARS_MAX, empty=True)
    tenant = HomeSettings.read().tenant if job.tenant is None else job.tenant
    _text(job, "tenant", tenant, TENANT_CHARS_MAX)
    _whole(job, "priority", job.priority, -PRIORITY_MAX, PRIORITY_MAX)
    tries = JobSettings.read().max_attempts if job.max_attempts is None else job.max_attempts
    _whole(job, "max_attempts", tries, 1, ATTEMPTS_MAX)
    _time(job)
    if job.timeout_s is not None:
        _seconds(job, "timeout_s", job.timeout_s, above_0=True)
    return Kind(
        tenant, job.queue, job.type, int(job.priority), int(tries), job.run_after, job.delay_s,
        job.limit_key, _tags(job), job.timeout_s,
    )  # fmt: skip


def trace_of(job: NewJob) -> str | None:
    """Check the trace that a job carries on; raise JobOptionError where it is no text that can be kept."""
    if job.trace is not None:
        _text(job, "trace", job.trace, TRACE_CHARS_MAX)
    return job.trace


def payload_text(job: NewJob, bytes_max: int) -> str:
    """Return the payload as JSON; raise PayloadError where it is none, or not as it was given."""
    payload = job.payload
    try:
        encoded = _encode(payload)
    except (TypeError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PayloadError(f"the payload of a {job.type} job is not JSON: {error}") from None
    if not encoded.startswith(b"{"):
        raise PayloadError(
            f"the payload of a {job.type} job is a {type(payload).__name__}, not a JSON object: {{…}}"
        )
    if len(encoded) > bytes_max:
        raise PayloadTooLargeError(job.type, len(encoded), bytes_max)
    # Whatever does not come back as it was may have been changed silently: then it is looked at closely.
    if _decode(encoded) != payload:
        _refuse_changed(job, payload)
    text = encoded.decode()
    if "\\u0000" in text and (path := _path_of(payload, _holds_nul)) is not None:
        raise PayloadError(f"{path} of a {job.type} job holds a NUL character, which Postgres cannot keep")
    return text


def arguments(job_type: str, payload: object) -> dict[str, Any]:
    """Return a payload as the dictionary that it must be; raise PayloadError where it is none."""
    if payload is None:
        return {}
    if not isinstance(payload, Mapping):
        raise PayloadError(
            f"the payload of a {job_type} job is a {type(payload).__name__}, not a JSON object: {{…}}"
        )
    return dict(payload)


def refuse_unknown(job_type: str, options: Iterable[str], known: Sequence[str]) -> None:
    """Raise JobOptionError for an option that an enqueue does not have."""
    for name in options:
        if name not in known:
            raise JobOptionError(job_type, name, f"no option; there are {', '.join(known)}")


def checked_key(job: NewJob, key: Key) -> Key:
    """Check a key; raise JobOptionError with the field."""
    _text(job, "unique key", key.text, KEY_BYTES_MAX)
    size = len(key.text.encode())
    if size > KEY_BYTES_MAX:
        raise JobOptionError(
            job.type, "unique key", f"{size} bytes long; at most {KEY_BYTES_MAX} are kept: use a hash of it"
        )
    known = (*LIVE_STATUSES, *HISTORY_STATUSES)
    states: object = key.states
    if not isinstance(states, (tuple, list)) or not set(states) <= set(known):
        raise JobOptionError(job.type, "unique states", f"{states!r}; give a tuple of {', '.join(known)}")
    if key.within_s is not None:
        _seconds(job, "unique within_s", key.within_s, above_0=True)
    if key.on_conflict not in ("return", "replace", "reschedule"):
        raise JobOptionError(
            job.type, "unique on_conflict", f"{key.on_conflict!r}; give return, replace or reschedule"
        )
    return key


def encoded_states(key: Key) -> str:
    """Return the states in which a key holds as the text of a JSON array."""
    return msgspec.json.encode(key.states).decode()


def _text(job: NewJob, field: str, value: object, chars_max: int, *, empty: bool = False) -> None:
    if not isinstance(value, str):
        raise JobOptionError(job.type, field, f"{value!r}; give a text")
    if not value and not empty:
        raise JobOptionError(job.type, field, "empty; give a text")
    if len(value) > chars_max:
        raise JobOptionError(job.type, field, f"{len(value)} characters long; at most {chars_max} are kept")
    if UNSTORABLE.search(value):
        raise JobOptionError(
            job.type, field, f"{value!r}; Postgres keeps no NUL and no half of a surrogate pair"
        )


def _whole(job: NewJob, field: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise JobOptionError(job.type, field, f"{value!r}; give a whole number from {least} to {most}")


def _seconds(job: NewJob, field: str, value: object, *, above_0: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= SECONDS_MAX:
        raise JobOptionError(job.type, field, f"{value!r}; give seconds from 0 to {SECONDS_MAX:.0f}")
    if above_0 and value == 0:
        raise JobOptionError(job.type, field, "0; give seconds above 0")


def _time(job: NewJob) -> None:
    at: object = job.run_after
    if at is not None and not (isinstance(at, datetime) and at.utcoffset() is not None):
        raise JobOptionError(
            job.type,
            "run_after",
            f"{at!r}; give a datetime with its time zone, like datetime.now(UTC) + …, or use delay_s",
        )
    if job.delay_s is not None:
        _seconds(job, "delay_s", job.delay_s)
        if job.run_after is not None:
            raise JobOptionError(
                job.type, "delay_s", f"{job.delay_s!r} beside run_after; give one of the two"
            )


def _tags(job: NewJob) -> str | None:
    """Return the tags as JSON: an array of arrays would have to have equal lengths."""
    tags = job.tags
    if not tags:
        return None
    if isinstance(tags, str) or not isinstance(tags, (list, tuple)):
        raise JobOptionError(job.type, "tags", f"{tags!r}; give a list of texts")
    if len(tags) > TAGS_MAX:
        raise JobOptionError(job.type, "tags", f"{len(tags)} of them; at most {TAGS_MAX} are kept")
    for tag in tags:
        _text(job, "tags", tag, TAG_CHARS_MAX)
    return msgspec.json.encode(list(tags)).decode()


def _refuse_changed(job: NewJob, payload: object) -> None:
    path = _path_of(payload, _changes)
    if path is not None:
        raise PayloadError(
            f"{path} of a {job.type} job is not JSON: NaN, infinities, sets and bytes have no place in it;"
            " give null, a list, or text such as base64"
        )


def _changes(value: object) -> bool:
    return isinstance(value, SILENT) or (isinstance(value, float) and not math.isfinite(value))


def _holds_nul(value: object) -> bool:
    return isinstance(value, str) and "\0" in value


def _path_of(payload: object, fits: Any) -> str | None:
    """Return where in a payload a value or key fits, as `payload.a[3]`; None where none does."""
    left: list[tuple[str, object]] = [("payload", payload)]
    while left:  # bounded: the encoder has refused what is too deep, and a cycle is
        path, value = left.pop()
        if fits(value):
            return path
        left.extend(_parts(path, value))
    return None


def _parts(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield f"a key of {path}", name
            yield f"{path}.{name}", inner
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield f"{path}[{place}]", inner
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield f"{path}.{name}", getattr(value, name)
    elif dataclasses.is_dataclass(value):
        for found in dataclasses.fields(value):
            yield f"{path}.{found.name}", getattr(value, found.name)
