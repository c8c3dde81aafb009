"""What an app declares: job types, what their payloads must be, and what is refused where it is declared."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from structlog.testing import capture_logs

from starforge.app import StarForge
from starforge.db.pool import Connection
from starforge.queue.context import Context
from starforge.queue.declare import Limit, Rate, Retry, Unique
from starforge.queue.depend import Depends
from starforge.queue.errors import DeclarationError, DuplicateTypeError, PayloadError, PayloadMisfitError
from starforge.queue.handler import JobType
from starforge.queue.outcome import MisfitError, RetryLater, Snooze
from tests.covers import covers

NO_CLASSES: Any = (3,)


class Colour(enum.Enum):
    RED = "red"


class Item(msgspec.Struct):
    sku: str
    count: int = 1


@dataclass
class Address:
    street: str


class Model(pydantic.BaseModel):
    n: int


def declared(app: StarForge, name: str) -> JobType:
    found = app.job_types().get(name)
    assert found is not None
    return found


def fields(app: StarForge, name: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Return what the handler of a type would be given for a stored payload."""
    signature = declared(app, name).signature
    assert signature is not None
    return msgspec.structs.asdict(signature.read(payload))


@covers("Q-46", "Q-76")
def test_a_type_has_what_its_declaration_says() -> None:
    app = StarForge()

    @app.job(
        "mail.welcome",
        queue="mail",
        priority=3,
        retry=Retry(attempts=7, base_s=1, max_s=60, never=ValueError),
        timeout=timedelta(minutes=2),
        isolated=True,
        high_memory=True,
        unique="user_id",
        limit=Limit(total=50, per_worker=5, per_key=2, key="user_id"),
        rate="120/m",
        owner="growth",
        critical=True,
    )
    async def welcome(user_id: int) -> None: ...

    found = declared(app, "mail.welcome")
    assert (found.queue, found.priority, found.timeout_s, found.owner) == ("mail", 3, 120.0, "growth")
    assert (found.isolated, found.high_memory, found.critical, found.max_attempts) == (True, True, True, 7)
    assert found.limit is not None
    assert found.limit.key_of({"user_id": 7}) == "7"
    assert found.rate == Rate(per_s=2.0, burst=12)
    assert found.unique is not None
    assert found.unique.of({"user_id": 7}).text == "7"
    assert found.retry.permanent(ValueError())
    assert not found.retry.permanent(KeyError())


def test_parentheses_are_not_needed_and_the_function_can_still_be_called() -> None:
    app = StarForge()

    @app.job
    def double(n: int) -> int:
        """Twice as much."""
        return 2 * n

    assert double(21) == 42
    assert double.name == "double"
    assert double.__doc__ == "Twice as much."


def test_two_handlers_of_one_name_are_refused() -> None:
    app = StarForge()
    app.job("twice")(lambda: None)
    with pytest.raises(DuplicateTypeError, match="'twice'"):
        app.job("twice")(lambda: None)


@pytest.mark.parametrize(
    ("declaration", "told"),
    [
        ({"timeout": 0}, "timeout is 0; give seconds above 0"),
        ({"retry": 0}, "retry attempts is 0; it must be 1 or more"),
        ({"rate": "fast"}, "the rate 'fast' cannot be read"),
        ({"limit": 0}, "limit total is 0"),
        ({"max_attempts": 3}, "there is no max_attempts; it may declare queue, priority, retry"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_with_the_argument_that_is_wrong(
    declaration: dict[str, Any], told: str
) -> None:
    with pytest.raises(DeclarationError, match=told):
        StarForge().job("bad", **declaration)(lambda: None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limit(per_key=2),
        lambda: Limit(key="user_id"),
        lambda: Unique(states=("gone",)),
        lambda: Retry(jitter=2),
        lambda: Retry(never=NO_CLASSES),
        lambda: Rate(per_s=0),
        lambda: Rate.of("0/s"),
    ],
)
def test_what_makes_no_sense_in_a_declaration_is_refused(make: Any) -> None:
    with pytest.raises(DeclarationError):
        make()


def test_a_wait_grows_up_to_its_longest_and_is_exact_without_jitter() -> None:
    exact = Retry(base_s=1, max_s=5, jitter=0)
    assert [exact.delay_s(attempt) for attempt in (1, 2, 3, 4, 1000)] == [1, 2, 4, 5, 5]
    drawn = [Retry(base_s=8, max_s=8).delay_s(1) for _ in range(200)]
    assert 4 <= min(drawn) < max(drawn) <= 8


def test_only_the_named_exceptions_are_tried_again_where_any_are_named() -> None:
    retry = Retry(on=(OSError,), never=(FileNotFoundError,))
    assert not retry.permanent(ConnectionError())
    assert retry.permanent(ValueError())
    assert retry.permanent(FileNotFoundError())


def test_a_long_key_is_shortened_and_tells_apart_what_differs() -> None:
    unique = Unique()
    long, other = {"text": "a" * 1000}, {"text": "a" * 999 + "b"}
    assert unique.of(long) != unique.of(other)
    assert len(unique.of(long).text) < 100
    assert unique.of({"a": 1, "b": 2}) == unique.of({"b": 2, "a": 1})
    assert Unique(key=("a", "b")).of({"a": 1, "b": None, "c": 3}).text == "[1,null]"
    assert Unique(key=lambda payload: payload["a"]).of({"a": "x"}).text == "x"


def test_payloads_become_what_the_parameters_are_annotated_with() -> None:
    app = StarForge()
    at, number = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), UUID(int=7)

    @app.job("typed")
    async def typed(
        at: datetime,
        number: UUID,
        price: Decimal,
        item: Item,
        address: Address,
        colour: Colour,
        by_number: dict[int, str],
        tags: set[str],
        model: Model,
        wait: timedelta = timedelta(seconds=1),
        note: str | None = None,
    ) -> None: ...

    given: dict[str, Any] = {
        "at": at,
        "number": number,
        "price": Decimal("1.20"),
        "item": Item("a"),
        "address": Address("Main Street 1"),
        "colour": Colour.RED,
        "by_number": {7: "seven"},
        "tags": {"x"},
        "model": Model(n=3),
    }
    stored = app.new_job("typed", given).payload
    assert msgspec.json.decode(msgspec.json.encode(stored)) == stored  # nothing but JSON
    assert stored["at"] == "2026-01-02T03:04:05Z"
    assert stored["price"] == "1.20"
    assert fields(app, "typed", stored) == {**given, "wait": timedelta(seconds=1), "note": None}


@pytest.mark.parametrize(
    ("payload", "field", "told"),
    [
        ({}, "user_id", "expected a value, got none"),
        ({"user_id": "7"}, "user_id", "expected int, got str"),
        ({"user_id": None}, "user_id", "expected int, got null"),
        ({"user_id": 7, "items": [{"sku": "a", "count": "b"}]}, "items[0].count", "expected int, got str"),
        ({"user_id": 7, "items": [{}]}, "items[0].sku", "expected a value, got none"),
        ({"user_id": 7, "usr": 1}, "usr", "unknown field"),
        ({"user_id": 7, "ratio": float("nan")}, "ratio", "expected float, got null"),
        ({"user_id": 7, "at": "yesterday"}, "at", "invalid RFC3339 encoded datetime"),
    ],
)
@covers("J-40")
def test_a_payload_that_does_not_fit_is_refused_to_its_producer_with_the_field(
    payload: dict[str, Any], field: str, told: str
) -> None:
    app = StarForge()

    @app.job("welcome")
    async def welcome(
        user_id: int, items: list[Item] | None = None, ratio: float = 1.0, at: datetime | None = None
    ) -> None: ...

    with pytest.raises(PayloadMisfitError) as refused:
        app.new_job("welcome", payload)
    assert (refused.value.code, refused.value.field, refused.value.fault) == ("SF231", field, told)
    assert str(refused.value).startswith(f"job welcome: {field}: {told}")


@pytest.mark.parametrize("thing", [{1, 2}, b"bytes", float("inf"), [float("nan")]])
async def test_what_json_would_change_silently_is_refused_where_no_annotation_speaks_for_it(
    conn: Connection, thing: object
) -> None:
    app = StarForge()
    app.job("any")(lambda thing, **others: None)
    for field in ("thing", "other"):
        with pytest.raises(PayloadError, match=field):
            await app.enqueue("any", {"thing": 1, field: thing}, conn=conn)


def test_a_value_without_a_json_form_is_refused() -> None:
    app = StarForge()
    app.job("any")(lambda thing: None)
    with pytest.raises(PayloadError, match="is not JSON"):
        app.new_job("any", {"thing": object()})


def test_a_type_that_the_app_does_not_know_is_accepted_as_it_is() -> None:
    """A worker of a newer version may know it; it waits until one comes."""
    job = StarForge().new_job("of.another.app", {"anything": [1]})
    assert (job.type, job.payload, job.queue) == ("of.another.app", {"anything": [1]}, "default")


@covers("J-40")
def test_a_stored_payload_that_no_longer_fits_names_the_field() -> None:
    app = StarForge()
    app.job("count")(_count)
    with pytest.raises(MisfitError, match=r"item\.count: expected int, got str") as misfit:
        fields(app, "count", {"item": {"sku": "a", "count": "many"}})
    assert misfit.value.field == "item.count"


def test_a_field_of_a_newer_producer_is_left_out_and_told_of_once() -> None:
    """In a rolling deploy producers may be newer than workers."""
    app = StarForge()
    app.job("count.rolling")(_count)
    with capture_logs() as lines:
        for _ in range(3):
            assert fields(app, "count.rolling", {"item": {"sku": "a"}, "newer": 1}) == {"item": Item("a")}
    assert [line["field"] for line in lines] == ["newer"]


def test_a_handler_of_any_fields_takes_them_all() -> None:
    app = StarForge()
    app.job("open")(lambda n, **others: None)
    assert app.new_job("open", {"n": 1, "other": 2}).payload == {"n": 1, "other": 2}


def test_arguments_are_given_as_to_the_function_itself() -> None:
    app = StarForge()

    @app.job("welcome", queue="mail")
    async def welcome(
        ctx: Context, user_id: int, name: str = "you", *, at: datetime | None = None
    ) -> None: ...

    at = datetime(2026, 1, 2, tzinfo=UTC)
    job = welcome.options(priority=5, tags=["x"]).new(7, "Ada", at=at)
    assert job.payload == {"user_id": 7, "name": "Ada", "at": "2026-01-02T00:00:00Z"}
    assert (job.queue, job.priority, tuple(job.tags)) == ("mail", 5, ("x",))
    untyped: Any = welcome
    with pytest.raises(PayloadMisfitError, match="user_id: given twice"):
        untyped.new(7, user_id=8)
    with pytest.raises(PayloadMisfitError, match="expected at most 3 values, got 4"):
        untyped.new(1, 2, 3, 4)


def test_annotations_may_name_what_is_local_to_the_declaration() -> None:
    class Local(msgspec.Struct):
        n: int

    app = StarForge()

    @app.job("local")
    async def local(thing: Local) -> None: ...

    @app.job
    async def bare(thing: Local) -> None: ...

    assert fields(app, "local", {"thing": {"n": 1}}) == {"thing": Local(1)}
    assert fields(app, "bare", {"thing": {"n": 1}}) == {"thing": Local(1)}


class Unreadable:
    """Something that no JSON value becomes."""


async def _opened() -> AsyncIterator[Unreadable]:
    yield Unreadable()


async def _needs_more(n: int) -> AsyncIterator[int]:
    yield n


async def _count(item: Item) -> None: ...


async def _unreadable(thing: Unreadable) -> None: ...


async def _noted(thing: Annotated[Unreadable, Depends(_opened)]) -> None: ...


async def _default(thing: Unreadable = Depends(_opened)) -> None: ...  # noqa: B008 - this form is what is tested


async def _bad_provider(thing: int = Depends(_needs_more)) -> None: ...


def _starred(*things: int) -> None: ...


def _generator(n: int) -> Any:
    yield n


async def _missing(thing: Any) -> None: ...


_missing.__annotations__["thing"] = "NoSuchName"


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (_unreadable, "thing: no JSON value becomes a Unreadable"),
        (_bad_provider, "_needs_more needs n"),
        (_starred, "a payload's fields have names"),
        (_generator, "its handler is a generator"),
        (_missing, "NoSuchName"),
    ],
)
def test_a_handler_that_no_payload_can_call_is_refused_where_it_is_declared(handler: Any, told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        StarForge().job("bad")(handler)


@pytest.mark.parametrize("handler", [_noted, _default])
def test_what_is_opened_for_an_attempt_is_no_field_of_the_payload(handler: Any) -> None:
    app = StarForge()
    app.job("opened")(handler)
    assert app.new_job("opened").payload == {}
    with pytest.raises(PayloadMisfitError, match="thing: unknown field"):
        app.new_job("opened", {"thing": 1})


def test_a_resource_cannot_depend_on_what_belongs_to_an_attempt() -> None:
    app = StarForge()

    @app.resource
    async def client(ctx: Context) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(DeclarationError, match="opened once"):

        @app.job
        async def asks(client: int = Depends(client)) -> None: ...


@pytest.mark.parametrize(
    ("after", "delay_s", "at"),
    [
        (90, 90.0, None),
        (timedelta(minutes=2), 120.0, None),
        ("120", 120.0, None),
        (" 7 ", 7.0, None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", None, datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (datetime(2030, 1, 1), None, datetime(2030, 1, 1, tzinfo=UTC)),
        (None, None, None),
        ("soon", None, None),
        ("", None, None),
        ("1" * 400, 366 * 86400.0, None),
        (-5, 0.0, None),
    ],
)
def test_the_time_that_a_server_names_is_read(after: Any, delay_s: float | None, at: datetime | None) -> None:
    later = RetryLater(after)
    assert (later.delay_s, later.at) == (delay_s, at)


def test_a_snooze_has_its_time() -> None:
    assert Snooze(timedelta(hours=1)).delay_s == 3600
