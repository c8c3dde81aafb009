"""Assets: what cannot be is refused where it is declared, or where all of them are bound."""

from __future__ import annotations

import types
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, cast

import pytest

from starforge.backfill.asset.asset import Asset, Assets, asset
from starforge.backfill.asset.revision import revision_of
from starforge.backfill.asset.upstream import Upstream
from starforge.backfill.errors import AssetDeclarationError, UnknownAssetError
from starforge.backfill.partition.partition import Cursor, Partition
from starforge.backfill.scheme.hourly import Hourly
from starforge.backfill.scheme.keyed import KeyRange, Static
from starforge.backfill.scheme.scheme import Named, Scheme, Window
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.backfill.scheme.window import Daily, Monthly
from starforge.db.pool import Connection
from starforge.queue.context import Context
from starforge.queue.declare import Retry
from starforge.queue.depend import Depends

DAYS = Daily("2024-01-01")


def mailbox() -> str:
    return "mail"


MAIL = Depends(mailbox)


async def fill(partition: Partition[Window]) -> None:
    """Do nothing."""


def made(name: str, partitions: Scheme = DAYS, **options: Any) -> Asset:
    return asset(name, fill, partitions=partitions, **options)


def test_an_asset_holds_what_was_declared() -> None:
    found = made("orders", concurrency=4, timeout=timedelta(minutes=2), retries=3, owner="shop", version="2")
    assert (found.concurrency, found.timeout_s, found.owner, found.version) == (4, 120.0, "shop", "2")
    assert found.retry.attempts == 4
    assert found.job_type == "asset:orders"
    assert made("a", retries=0).retry.attempts == 1
    assert made("a", retries=Retry(attempts=7)).retry.attempts == 7
    assert made("a").retry.attempts is None


def test_stored_snapshots_are_reprocessed_by_the_job_type_of_that_name() -> None:
    assert made("again", SnapshotRange("hero", every=DAYS)).job_type == "backfill_range"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"concurrency": 0}, "asset a: concurrency is 0; it must be a whole number from 1 to 1000"),
        ({"concurrency": 1.5}, "concurrency is 1.5"),
        ({"concurrency": True}, "concurrency is True"),
        ({"timeout": 0}, "asset a: timeout is 0; give seconds above 0"),
        ({"timeout": timedelta(0)}, "timeout is "),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"retries": -1}, "retries is -1"),
        ({"owner": ""}, "owner is ''"),
        ({"version": "a\nb"}, "version is "),
        ({"validate": "yes"}, "asset a: validate: 'yes' is no function"),
        ({"upstream": "orders"}, r"write a list, as in upstream=\['orders'\]"),
        ({"upstream": [7]}, "upstream 7 is no name of an asset"),
        ({"upstream": ["b", "b"]}, "upstream names b twice"),
        ({"upstream": [Upstream("b", maps=cast(Any, "x"))]}, "maps='x' of upstream b is no function"),
        ({"priority": 3}, "there is no priority; it may declare upstream, concurrency"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_with_its_argument(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises(AssetDeclarationError, match=told):
        made("a", **options)


@pytest.mark.parametrize("name", ["", " a", "a b", "-a", "é", "a\n", "x" * 101, None])
def test_a_name_that_no_command_line_takes_is_refused(name: Any) -> None:
    with pytest.raises(AssetDeclarationError, match="a name is 1 to 100 letters"):
        made(name)


def test_partitions_are_a_scheme_and_not_its_class() -> None:
    with pytest.raises(AssetDeclarationError, match=r"is no scheme of partitions; write Daily\(…\)"):
        made("a", cast(Any, Daily))


async def _ctx(partition: Partition[Window], ctx: Context) -> None: ...
async def _conn(conn: Connection, partition: Partition[Window]) -> None: ...
async def _named(day: Any, conn: Any) -> None: ...
async def _renamed(context: Context, db: Connection, given: Partition[Window]) -> None: ...
async def _depends(partition: Any, mail: Any = MAIL) -> None: ...
async def _default(partition: Any, size: int = 5) -> None: ...
async def _positional(partition: Any, /, ctx: Any) -> None: ...
def _plain(partition: Any) -> None: ...


@pytest.mark.parametrize(
    ("handler", "context", "connection"),
    [
        (_ctx, "ctx", None),
        (_conn, None, "conn"),
        (_named, None, "conn"),
        (_renamed, "context", "db"),
        (_depends, None, None),
        (_default, None, None),
        (_positional, "ctx", None),
        (_plain, None, None),
    ],
)
def test_a_handler_gets_what_its_parameters_ask_for(
    handler: Callable[..., Any], context: str | None, connection: str | None
) -> None:
    takes = asset("a", handler, partitions=DAYS).handler
    assert takes is not None
    assert (takes.context, takes.connection) == (context, connection)
    assert takes.partition in {"partition", "day", "given"}
    assert set(takes.depends) == ({"mail"} if handler is _depends else set())
    assert takes.blocking == (handler is _plain)


async def _nothing() -> None: ...
async def _too_much(partition: Any, when: Any) -> None: ...
async def _only_ctx(ctx: Any) -> None: ...
def _plain_conn(partition: Any, conn: Any) -> None: ...
async def _generator(partition: Any) -> Any:
    yield


async def _hidden(partition: Any, ctx: Any, /) -> None: ...
async def _unreadable(partition: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - that is the fault


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (_nothing, "it takes no partition: `async def _nothing"),
        (_only_ctx, "it takes no partition"),
        (_too_much, "asset a: nobody gives it when"),
        (_plain_conn, "a plain function cannot wait for conn"),
        (_generator, "it is a generator"),
        (_hidden, "ctx is given by its name"),
        (_unreadable, "asset a: its annotations cannot be read where it is declared"),
        ("fill", "'fill' is no function"),
    ],
)
def test_a_handler_that_could_not_be_called_is_refused(handler: Any, told: str) -> None:
    with pytest.raises(AssetDeclarationError, match=told):
        asset("a", handler, partitions=DAYS)


async def test_a_handler_is_called_with_what_it_asks_for() -> None:
    seen: list[Any] = []

    async def handler(ctx: Any, day: Any, conn: Any) -> str:
        seen.extend([ctx, day, conn])
        return "done"

    ctx = cast(Any, types.SimpleNamespace(host=types.SimpleNamespace(threads=None, resources=None)))
    given = Partition(asset="a", key="eu", ordinal=1, bounds=Named("eu"))
    takes = asset("a", handler, partitions=DAYS).handler
    assert takes is not None
    assert await takes.call(ctx, given, cast(Any, "conn")) == "done"
    assert seen == [ctx, given, "conn"]


async def test_a_cursor_advances_once_it_is_kept() -> None:
    kept: list[Any] = []

    async def store(value: Any, _conn: Any = None) -> None:
        if value == "bad":
            raise ConnectionError
        kept.append(value)

    given = Partition(asset="a", key="k", ordinal=1, bounds=Named("k"), attempt=2, resume=Cursor(5, store))
    assert given.cursor == 5
    await given.advance(9)
    with pytest.raises(ConnectionError):
        await given.advance("bad")
    assert (given.cursor, kept) == (9, [9])
    with pytest.raises(AttributeError):
        given.key = "other"  # type: ignore[misc]  # that is what is refused


def test_two_assets_of_one_name_are_refused() -> None:
    with pytest.raises(AssetDeclarationError, match="asset a is declared twice"):
        Assets([made("a"), made("a")])


def test_an_unknown_asset_is_refused_with_those_that_are_near() -> None:
    assets = Assets([made("daily_orders"), made("daily_visits"), made("prices")])
    with pytest.raises(UnknownAssetError, match="did you mean daily_orders") as found:
        assets.get("dayly_orders")
    assert "`starforge backfill create daily_orders --dry-run`" in str(found.value)
    with pytest.raises(
        UnknownAssetError,
        match=r"there are daily_orders, daily_visits, prices; `starforge backfill create daily_o",
    ):
        assets.get("zzz")
    with pytest.raises(UnknownAssetError, match="no worker has declared any yet"):
        Assets().get("zzz")


def test_an_upstream_may_be_declared_later_but_has_to_be_there_when_all_are_bound() -> None:
    assets = Assets([made("orders", upstream=["raw"])])
    with pytest.raises(AssetDeclarationError, match="asset orders: its upstream: no asset is called 'raw'"):
        assets.bind()
    assets.add(made("raw"))
    assets.bind()


@pytest.mark.parametrize(
    ("upstream", "cycle"),
    [
        ({"a": ["b"], "b": ["a"]}, "a → b → a"),
        ({"a": ["a"]}, "a → a"),
        ({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["d", "a"], "d": []}, "a → b → c → a"),
    ],
)
def test_a_cycle_is_named_in_full(upstream: dict[str, list[str]], cycle: str) -> None:
    with pytest.raises(AssetDeclarationError, match=f"upstream of themselves: {cycle}$"):
        Assets(made(name, upstream=above) for name, above in upstream.items()).bind()


def test_a_diamond_and_a_long_chain_are_no_cycles() -> None:
    Assets(
        made(name, upstream=above)
        for name, above in {"d": ["b", "c"], "b": ["a"], "c": ["a"], "a": list[str]()}.items()
    ).bind()
    Assets(made(f"n{i}", upstream=[f"n{i + 1}"] if i < 3000 else []) for i in range(3001)).bind()


@pytest.mark.parametrize(
    ("below", "above", "key", "expected"),
    [
        (Monthly("2024-01"), DAYS, "2024-02", ("2024-02-01", "2024-02-29", 29)),
        (DAYS, Hourly("2024-01-01T00"), "2024-02-29", ("2024-02-29T00", "2024-02-29T23", 24)),
        (DAYS, Daily("2020-01-01"), "2024-02-29", ("2024-02-29", "2024-02-29", 1)),
        (DAYS, Monthly("2024-01"), "2024-02-29", ("2024-02", "2024-02", 1)),
        (Daily("2024-01-01", zone="Europe/Berlin"), DAYS, "2024-06-02", ("2024-06-01", "2024-06-02", 2)),
        (
            Daily("2024-01-01", zone="Europe/Berlin"),
            Hourly("2024-01-01T00", zone="Europe/Berlin"),
            "2024-10-27",
            ("2024-10-27T00", "2024-10-27T23", 25),
        ),
        (DAYS, SnapshotRange("hero", every=DAYS), "2024-02-29", ("2024-02-29", "2024-02-29", 1)),
        (Static("eu", "us"), Static("eu", "us"), "us", ("us", "us", 1)),
        (KeyRange("t", rows=10), KeyRange("t", rows=10, start=1), "11..20", ("11..20", "11..20", 1)),
    ],
)
def test_a_key_maps_to_the_keys_upstream_that_it_is_made_from(
    below: Scheme, above: Scheme, key: str, expected: tuple[str, str, int]
) -> None:
    assets = Assets([made("below", below, upstream=["above"]), made("above", above)])
    assets.bind()
    found = assets.get("below")
    spans = assets.inputs(found, found.upstream[0], [below.span(key, key)])
    assert (above.first_key(spans), above.last_key(spans), sum(map(above.count, spans))) == expected


@pytest.mark.parametrize(
    ("below", "above"),
    [
        (DAYS, Static("eu")),
        (Static("eu"), DAYS),
        (Static("eu"), Static("eu", "us")),
        (KeyRange("t", rows=10), KeyRange("t", rows=20)),
        (KeyRange("t"), DAYS),
    ],
)
def test_keys_that_say_nothing_of_those_upstream_need_a_function(below: Scheme, above: Scheme) -> None:
    with pytest.raises(
        AssetDeclarationError, match=r"asset below: .*: say it with Upstream\('above', maps=…\)"
    ):
        Assets([made("below", below, upstream=["above"]), made("above", above)]).bind()
    Assets([made("below", below, upstream=[Upstream("above", lambda _: [])]), made("above", above)]).bind()


def test_a_function_says_which_keys_upstream_a_key_is_made_from() -> None:
    regions = {"2024-02-29": ["us", "eu"], "2024-03-01": "asia"}
    assets = Assets(
        [
            made("below", upstream=[Upstream("above", maps=lambda key: regions[key])]),
            made("above", Static("eu", "us", "asia", "mars")),
        ]
    )
    below = assets.get("below")
    assert assets.inputs(below, below.upstream[0], [DAYS.span("2024-02-29", "2024-03-01")]) == [(0, 3)]
    with pytest.raises(
        AssetDeclarationError, match="maps= of upstream above for 2024-03-02 failed: KeyError"
    ):
        assets.inputs(below, below.upstream[0], [DAYS.span("2024-03-02", "2024-03-02")])
    regions["2024-03-02"] = ["venus"]
    with pytest.raises(AssetDeclarationError, match="gave what is no key there: 'venus' is none"):
        assets.inputs(below, below.upstream[0], [DAYS.span("2024-03-02", "2024-03-02")])


def _compiled(body: str, name: str = "f") -> Callable[..., Any]:
    names: dict[str, Any] = {}
    exec(f"async def {name}(partition):\n{body}", names)
    return cast(Callable[..., Any], names[name])


def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


async def first(partition: Any) -> int:
    return 1


def test_the_version_of_code_changes_with_what_it_does_and_not_with_how_it_is_written() -> None:
    plain = revision_of(first)

    def again() -> Callable[..., Any]:
        @_kept
        async def first(
            partition: Any,
        ) -> int:
            """Say what it does."""
            # And why.
            return 1

        return first

    def other() -> Callable[..., Any]:
        async def first(partition: Any) -> int:
            return 2

        return first

    assert plain.startswith("src:")
    assert plain == revision_of(again()) == revision_of(partial(first))
    assert plain != revision_of(other())


def test_code_without_a_source_has_a_version_all_the_same() -> None:
    assert revision_of(_compiled("    return 1")).startswith("code:")
    assert revision_of(_compiled("    return 1")) == revision_of(_compiled("    return 1"))
    assert revision_of(_compiled("    return 1")) != revision_of(_compiled("    return 2"))
