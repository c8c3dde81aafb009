"""The gear that reads in pieces: whatever it is given, it comes to what the gear in memory comes to."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starforge.app import load
from starforge.etl.document.guard import check
from starforge.etl.document.parse import parse, read_document
from starforge.etl.errors import MalformedError, MappingError
from starforge.etl.gears.document import Document, Whole
from starforge.etl.gears.entities import Entities
from starforge.etl.gears.stream import Opened, Streamed
from starforge.etl.mapping import (
    BIGINT,
    ID,
    JSON,
    POSITION,
    TEXT,
    Column,
    Derived,
    Each,
    Mapping,
    Ref,
    Rows,
    Table,
    text,
)
from starforge.heroes.mapping import HERO
from tests.covers import covers


def summed(orders: Rows | None, _: Any, before: int | None) -> int:
    assert orders is not None
    return (before or 0) + sum(amount or 0 for amount in orders["amount"])


REF = Ref("customer_id", "customers", "/Code")
SHOP = Mapping(
    "shop",
    subject="customers",
    root=["data", ""],
    tables=[
        Table("customers", key=("tenant_id", "code"), columns=[Column("code", "Code", text(1))]),
        Table(
            "orders",
            rows=Each("Orders", id="Id"),
            key=("customer_id", "id"),
            columns=[REF, Column("id", ID, TEXT), Column("amount", "Amount", BIGINT)],
        ),
        Table(
            "lines",
            rows=Each("Trees[].leaf"),
            key=("customer_id", "place"),
            columns=[REF, Column("place", POSITION, BIGINT), Column("what", "what", JSON)],
        ),
        Table(
            "sums",
            key=("customer_id",),
            extra=None,
            columns=[
                REF,
                Derived(
                    "total",
                    JSON,
                    summed,
                    over="orders",
                ),
            ],
        ),
    ],
)


PARTS = list(SHOP.tables.values())
CUSTOMERS = Table(
    "customers", key=("tenant_id", "code"), extra=None, columns=[Column("code", "Code", text(1))]
)
KEEPING_NOTHING = Mapping("shop", subject="customers", root=["data", ""], tables=[CUSTOMERS, *PARTS[1:]])
IGNORING = Mapping(
    "shop",
    subject="customers",
    root=["data", ""],
    tables=PARTS,
    ignored=["data.More.Log", "More", "At", "data.odd.x"],
    captured_at=["At.time", "data.More.at"],
)


def opened(data: bytes, sizes: Sequence[int] = (7,)) -> Opened:
    """Give the data in chunks of these sizes, again and again."""

    async def chunks() -> AsyncIterator[bytes]:
        place, turn = 0, 0
        while place < len(data):
            size = sizes[turn % len(sizes)]
            yield data[place : place + size]
            place, turn = place + size, turn + 1

    return chunks


def rows_of(rows: Rows) -> Iterator[tuple[Any, ...]]:
    names = [column.name for column in rows.table.columns] + ([rows.table.extra] if rows.table.extra else [])
    yield from zip(*(rows[name] for name in names), strict=True)


async def tables(mapping: Mapping, document: Document, items: int) -> dict[str, list[tuple[Any, ...]]]:
    """Return every table's rows."""
    entities = await Entities.of(mapping, document)
    return {
        name: [row async for rows in entities.rows(table, items) for row in rows_of(rows)]
        for name, table in mapping.tables.items()
    }


async def in_pieces(mapping: Mapping, data: bytes, sizes: Sequence[int], items: int) -> Any:
    document = await Streamed.of(mapping.layout, opened(data, sizes))
    return await tables(mapping, document, items)


async def outcome(reading: Any) -> Any:
    """Return what reading gives, or the error."""
    try:
        return await reading
    except MappingError as error:
        return error


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)
item = st.fixed_dictionaries(
    {}, optional={"Amount": st.integers(0, 99), "odd": values, "Id": st.text(max_size=3)}
)
orders = (
    st.dictionaries(st.text(min_size=1, max_size=3), item, max_size=6)
    # Of equal ids the whole keeps the last; where they come in pieces, it is the write that refuses them.
    | st.lists(item, max_size=6, unique_by=lambda one: str(one.get("Id", id(one))))
    | st.none()
)
trees = st.lists(st.fixed_dictionaries({}, optional={"leaf": st.lists(item, max_size=0) | item}), max_size=4)
more = values | st.fixed_dictionaries(
    {}, optional={"Log": values, "x": values, "at": st.just("2026-01-31T12:00:00Z"), "b": values}
)
shops = st.fixed_dictionaries(
    {"Code": st.text(min_size=1, max_size=4)},
    optional={"Orders": orders, "Trees": trees, "More": more, "data": values, "odd": more},
)
documents = shops | st.fixed_dictionaries({"data": shops}, optional={"Orders": orders, "At": values})


@covers("O-31", "O-33")
@settings(deadline=None)
@given(
    document=documents,
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    items=st.integers(1, 5),
    mapping=st.sampled_from([SHOP, KEEPING_NOTHING, IGNORING, IGNORING.treating_unknown("refuse")]),
)
async def test_pieces_hold_the_rows_that_the_whole_holds(
    document: Any, sizes: list[int], items: int, mapping: Mapping
) -> None:
    data = json.dumps(document).encode()
    whole = await outcome(tables(mapping, Whole(read_document(data)), items))
    pieces = await outcome(in_pieces(mapping, data, sizes, items))
    if isinstance(whole, MappingError):
        # Of a document with several faults each gear tells the one that it meets first.
        assert isinstance(pieces, MappingError)
    else:
        assert pieces == whole


@settings(deadline=None)
@given(document=values, sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), escaped=st.booleans())
async def test_a_skeleton_of_which_nothing_is_left_out_is_the_document(
    document: Any, sizes: list[int], escaped: bool
) -> None:
    data = json.dumps(document, ensure_ascii=escaped).encode("utf-8", "replace")
    expected = read_document(data)
    found = (await Streamed.read(opened(data, sizes), ())).root
    assert found == expected
    assert repr(found) == repr(expected), "types are the same, too"


@covers("O-33")
@pytest.mark.parametrize(
    "data",
    [
        rb'{"a":"\ud800","b":"\udc00x","c":"\ud83d\ude00","d":"\u0000","e":"\\u0000","f":"\\\ud800"}',
        rb'["\ud83d\ud83d\ude00\ude00", "\\\\\ud83d\\ude00", "\\\\\\u0000"]',
        b'{"a":1,"a":2,"b":{"x":1},"b":{"y":2}}',
        b"[1e5, -0, -0.0, 1E-400, 18446744073709551616, 0.1, 123456789012345678901234567890]",
        b' [ "\t" ] '.replace(b'"\t"', b"7"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 11, 12, 13, 64])
async def test_what_is_doubtful_comes_out_the_same(data: bytes, size: int) -> None:
    assert repr((await Streamed.read(opened(data, [size]), ())).root) == repr(read_document(data))


@pytest.mark.shared
async def test_both_gears_agree_on_every_file_of_the_minefield(shared: Path) -> None:
    seen = {"taken": 0, "refused": 0}
    for file in sorted((shared / "data" / "malformed-json").glob("*.json")):
        data = file.read_bytes()
        try:
            verdict = check(data)
        except MalformedError:
            continue  # neither gear gets to see it
        try:
            expected = repr(parse(data, verdict))
        except MalformedError:
            with pytest.raises(MalformedError):
                await Streamed.read(opened(data, [3]), ())
            seen["refused"] += 1
            continue
        assert repr((await Streamed.read(opened(data, [3]), ())).root) == expected, file.name
        seen["taken"] += 1
    assert min(seen.values()) > 50


@pytest.mark.shared
async def test_both_gears_make_the_same_rows_of_the_sample_and_of_the_bundles(shared: Path) -> None:
    fhir = load("examples.fhir.app:app").mappings.get("fhir")
    sample = (shared / "data" / "hero" / "sample.json").read_bytes()
    bundles = sorted((shared / "data" / "fhir-r4").glob("*.json.gz"))[:2]
    pairs = [(HERO, sample), *((fhir, gzip.decompress(file.read_bytes())) for file in bundles)]
    for mapping, data in pairs:
        whole = await tables(mapping, Whole(read_document(data)), 100)
        assert await in_pieces(mapping, data, [4096], 100) == whole
        assert sum(map(len, whole.values())) > 10


@pytest.mark.parametrize(
    ("data", "position", "line", "column"),
    [
        (b'{"a": 1,\n "b": tru }', 18, 2, 10),
        (b"[1, 2\n, 3", 9, 2, 4),
        (b"[1] x", 4, 1, 5),
        (b"", 0, 1, 1),
        (b'[1] "x', 6, 1, 7),
        (b'[1, "x', 6, 1, 7),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 64])
async def test_the_place_of_what_is_malformed_is_told(
    data: bytes, position: int, line: int, column: int, size: int
) -> None:
    with pytest.raises(MalformedError) as raised:
        await Streamed.read(opened(data, [size]), ())
    error = raised.value
    assert (error.line, error.column, error.position) == (line, column, position)


async def test_a_row_that_comes_twice_in_pieces_is_refused_by_its_path() -> None:
    data = b'{"Code": "A", "Orders": {"x": {}, "y": {}, "x": {}}}'
    with pytest.raises(MappingError, match=r"Orders\.x: comes twice in a document that is too large"):
        await in_pieces(SHOP, data, [64], 10)


async def test_of_a_container_that_comes_twice_the_last_one_counts() -> None:
    data = b'{"Code": "A", "Orders": {"x": {}}, "Orders": [{"Id": "y"}], "data": {"Orders": {}}, "data": 1}'
    assert (await in_pieces(SHOP, data, [64], 10)) == await tables(SHOP, Whole(read_document(data)), 10)


def large(filler: bytes) -> bytes:
    """A document of which much lies at `data.More.Log`."""
    orders = b",".join(b'"%d": {"Amount": %d}' % (n, n) for n in range(150_000))
    return b'{"data": {"More": {"a": 1, "Log": %b}, "Code": "A", "Orders": {%b}}}' % (filler, orders)


FILLERS = {
    "texts": b"[" + b",".join([b'"' + b"x" * 1000 + b'"'] * 20_000) + b"]",
    "values": b'{"k": [' + b",".join([b"1.5"] * 4_000_000) + b"]}",
    "one text": b'"' + b"y" * 20_000_000 + b'"',
}


@pytest.mark.long
@covers("O-33")
@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize("mapping", [KEEPING_NOTHING, IGNORING])
async def test_what_nothing_keeps_is_passed_over_however_large(filler: str, mapping: Mapping) -> None:
    """20 MB that no column takes, and no `extra`, or which are ignored."""
    data = large(FILLERS[filler])
    document = await Streamed.of(mapping.layout, opened(data, [1 << 20]))
    assert len(repr(document.root)) < 100
    assert ("Log" if mapping is IGNORING else "More") in repr(document.root), (
        "its name and kind are noted all the same"
    )
    rows = await tables(mapping, document, 5_000)
    assert len(rows["orders"]) == 150_000
    assert rows["sums"][0][-1] == json.dumps(sum(range(150_000)))
    if mapping is IGNORING:
        assert rows["customers"] == [("A", '{"More":{"a":1}}')]


@pytest.mark.long
@covers("O-33")
@pytest.mark.parametrize(
    ("filler", "told"), [("texts", "20.1 MB"), ("values", "16.0 MB"), ("one text", "20.0 MB")]
)
async def test_what_an_extra_would_keep_of_too_much_is_told_with_path_size_and_remedy(
    filler: str, told: str
) -> None:
    with pytest.raises(MappingError) as raised:
        await in_pieces(SHOP, large(FILLERS[filler]), [1 << 20], 5_000)
    assert raised.value.path == "data.More"
    assert raised.value.reason.startswith(f"holds {told} in ")
    assert "extra of customers would keep it: name it in ignored=" in raised.value.reason


async def test_what_a_column_takes_may_not_fill_the_memory_either() -> None:
    data = b'{"Code": ["' + b"x" * 20_000_000 + b'"]}'
    with pytest.raises(MappingError, match=r"^Code: holds 20.0 MB in 2 values.*a column takes it"):
        await in_pieces(KEEPING_NOTHING, data, [1 << 16], 10)


async def test_many_fields_that_nothing_keeps_do_not_fill_the_memory() -> None:
    data = b"{" + b",".join(b'"%d": {}' % n for n in range(300_000)) + b', "Code": "A"}'
    document = await Streamed.of(KEEPING_NOTHING.layout, opened(data, [1 << 16]))
    assert len(document.root) == 1001
    assert document.root["Code"] == "A"
