"""Mappings: what documents become, what is refused with its path, and which declarations make no sense."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from starforge.etl.document.path import EVERY, get, leftover, parse, shown, taken
from starforge.etl.errors import (
    CapturedAheadError,
    DuplicateMappingError,
    MappingDeclarationError,
    MappingError,
    UnknownSourceError,
)
from starforge.etl.ingest.judge import judge
from starforge.etl.ingest.offers import Offer
from starforge.etl.mapping import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    EPOCH_MS,
    EPOCH_S,
    ID,
    INTEGER,
    JSON,
    LIST,
    OBJECT,
    POSITION,
    SMALLINT,
    TEXT,
    TIMESTAMP,
    Catalogue,
    Column,
    Delete,
    Derived,
    Each,
    Keep,
    Mapping,
    Mappings,
    One,
    Ref,
    Rows,
    Table,
    Type,
    array,
    scaled,
    text,
)
from tests.covers import covers

CUSTOMERS = Table(
    "customers",
    key=("tenant_id", "code"),
    columns=[Column("code", "Code", text(1, 8)), Column("name", "Name", TEXT)],
)
ORDERS = Table(
    "orders",
    rows=Each("Orders", id="OrderId"),
    key=("customer_id", "order_id"),
    left=Delete(),
    columns=[
        Ref("customer_id", "customers", "/Code"),
        Column("order_id", ID, BIGINT),
        Column("amount", "Amount", INTEGER, default=1),
        Column("city", "To.City", TEXT),
    ],
)


def shop(*tables: Table, **more: Any) -> Mapping:
    """A mapping of one customer with these tables beside."""
    return Mapping("shop", subject="customers", tables=[CUSTOMERS, *tables], **more)


def only(type_: Type, **more: Any) -> Mapping:
    """A mapping of one customer with one further column."""
    columns = [*CUSTOMERS.columns, Column("value", "Value", type_, **more)]
    table = Table("customers", key=CUSTOMERS.key, columns=columns)
    return Mapping("shop", subject="customers", tables=[table])


def value_of(type_: Type, value: Any, **more: Any) -> Any:
    return only(type_, **more).read({"Code": "A", "Value": value}).tables["customers"]["value"][0]


# ---- paths


def test_a_path_is_read_and_written_the_same() -> None:
    for written in ("ServerTime", "code.coding[0].display", "Troops.6024.Amount", "grid[0][1]"):
        assert shown(parse(written)) == written
    assert parse("code.coding[0]") == ("code", "coding", 0)
    assert parse("entry[].resource", every=True) == ("entry", EVERY, "resource")


@pytest.mark.parametrize("written", [".a", "a..b", "a.", "a[x]", "a[", "a]b", "[]", "entry[].resource"])
def test_what_is_no_path_is_refused_where_it_is_declared(written: str) -> None:
    with pytest.raises(MappingDeclarationError):
        parse(written)


def test_a_path_that_ends_early_leads_to_nothing() -> None:
    document = {"a": {"b": [1]}, "n": None}
    assert get(document, parse("a.b[0]")) == 1
    assert get(document, parse("a.b[1]")) is None
    assert get(document, parse("a.c.d")) is None
    assert get(document, parse("n.c")) is None


def test_what_is_left_of_an_object_is_what_no_path_takes() -> None:
    tree = taken(map(parse, ("a", "b.c", "list[0].x", "gone.y", "deep.z", "deep")))
    document = {
        "a": 1,
        "b": {"c": 1, "d": 2},
        "list": [{"x": 1}],
        "gone": {"y": 1},
        "deep": {"other": 1},
        "new": None,
    }
    assert leftover(document, tree) == {"b": {"d": 2}, "new": None}
    assert leftover({"list": [{"x": 1}, {"x": 2}]}, tree) == {"list": [{"x": 1}, {"x": 2}]}
    assert leftover({"list": [{"x": 1, "y": 2}]}, tree) == {"list": [{"x": 1, "y": 2}]}


# ---- types


@pytest.mark.parametrize(
    ("type_", "value", "sent"),
    [
        (SMALLINT, -(2**15), -(2**15)),
        (INTEGER, 2**31 - 1, 2**31 - 1),
        (BIGINT, -(2**63), -(2**63)),
        (DOUBLE, 5, 5.0),
        (DOUBLE, 0.5, 0.5),
        (BOOLEAN, False, False),
        (TEXT, "", ""),
        (DATE, "1945-12-09", date(1945, 12, 9)),
        (TIMESTAMP, "2020-01-01T00:00:00Z", datetime(2020, 1, 1, tzinfo=UTC)),
        (TIMESTAMP, "2020-01-01T01:00:00+01:00", datetime(2020, 1, 1, tzinfo=UTC)),
        (TIMESTAMP, "2020-01-01", datetime(2020, 1, 1, tzinfo=UTC)),
        (EPOCH_S, 0, datetime(1970, 1, 1, tzinfo=UTC)),
        (EPOCH_S, -1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (EPOCH_MS, 1_764_633_600_123, datetime(2025, 12, 2, 0, 0, 0, 123_000, tzinfo=UTC)),
        (JSON, {"a": [1, None]}, '{"a":[1,null]}'),
        (JSON, 2**80, str(2**80)),
        (OBJECT, {}, "{}"),
        (LIST, [], "[]"),
        (array(INTEGER), [1, -2], "{1,-2}"),
        (array(TEXT), ['a"b', "c\\d", "NULL", "{x,y}"], '{"a\\"b","c\\\\d","NULL","{x,y}"}'),
        (INTEGER, None, None),
    ],
)
def test_a_value_that_fits_is_sent_as_its_column_wants_it(type_: Type, value: Any, sent: Any) -> None:
    found = value_of(type_, value)
    assert found == sent
    assert type(found) is type(sent)


@covers("F-21")
@pytest.mark.parametrize(
    ("type_", "value", "told"),
    [
        (INTEGER, 2**40, "Value: 1099511627776 is out of range for integer"),
        (INTEGER, -(2**31) - 1, "Value: -2147483649 is out of range for integer"),
        (BIGINT, 2**63, "Value: 9223372036854775808 is out of range for bigint"),
        (INTEGER, "5", "Value: expected an integer, found text"),
        (INTEGER, 5.0, "Value: expected an integer, found a number with a fraction"),
        (INTEGER, True, "Value: expected an integer, found true"),
        (INTEGER, [5], "Value: expected an integer, found an array"),
        (TEXT, 5, "Value: expected text, found an integer"),
        (text(1, 3), "abcd", "Value: has 4 characters; 3 is the most"),
        (text(1, 3), "", "Value: has 0 characters; 1 is the least"),
        (EPOCH_S, 2**62, "Value: 4611686018427387904 is out of range for timestamptz"),
        (EPOCH_S, 10**13, "Value: 10000000000000 is out of range for timestamptz"),
        (DATE, "1945-13-01", "Value: is not a date of ISO 8601"),
        (TIMESTAMP, "yesterday", "Value: is not a timestamp of ISO 8601"),
        (DOUBLE, 10**400, "is out of range for double precision"),
        (OBJECT, [], "Value: expected an object, found an array"),
        (array(INTEGER), [1, 2**31], "Value[1]: 2147483648 is out of range for integer"),
        (array(INTEGER), [None], "Value[0]: expected an integer, found null"),
        (replace(TEXT, convert=lambda _: int("x")), "a", "Value: invalid literal"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_path(type_: Type, value: Any, told: str) -> None:
    with pytest.raises(MappingError) as caught:
        value_of(type_, value)
    assert told in str(caught.value)
    assert caught.value.path.startswith("Value")


def test_a_number_of_a_thousand_digits_does_not_fill_the_message() -> None:
    with pytest.raises(MappingError) as caught:
        value_of(INTEGER, 10**999)
    assert len(str(caught.value)) < 120


def test_null_and_absent_become_the_default() -> None:
    assert value_of(INTEGER, None, default=7) == 7
    assert value_of(LIST, None, default=[]) == "[]"
    assert only(INTEGER, default=7).read({"Code": "A"}).tables["customers"]["value"] == [7]


def test_a_required_value_that_is_missing_is_refused() -> None:
    with pytest.raises(MappingError, match=r"^Value: is required$"):
        only(TEXT, required=True).read({"Code": "A"})
    with pytest.raises(MappingError, match=r"^Code: is required$"):
        shop().read({"Name": "Ann"})


# ---- rows


def test_an_object_keyed_by_id_and_an_array_of_items_become_the_same_rows() -> None:
    mapping = shop(ORDERS)
    keyed = mapping.read({"Code": "A", "Orders": {"7": {"Amount": 2}, "9": {}}})
    listed = mapping.read({"Code": "A", "Orders": [{"OrderId": 7, "Amount": 2}, {"OrderId": 9}]})
    assert keyed.tables["orders"].columns == listed.tables["orders"].columns
    assert keyed.tables["orders"]["order_id"] == [7, 9]
    assert keyed.tables["orders"]["amount"] == [2, 1]
    assert keyed.tables["orders"]["extra"] == ["{}", "{}"]


@pytest.mark.parametrize("orders", [None, {}, []])
def test_no_items_are_no_rows(orders: Any) -> None:
    assert shop(ORDERS).read({"Code": "A", "Orders": orders}).tables["orders"].count == 0
    assert shop(ORDERS).read({"Code": "A"}).tables["orders"].count == 0


def test_of_items_with_one_id_the_last_counts() -> None:
    orders = [{"OrderId": 7, "Amount": 2}, {"OrderId": 8}, {"OrderId": 7, "Amount": 3}]
    rows = shop(ORDERS).read({"Code": "A", "Orders": orders}).tables["orders"]
    assert dict(zip(rows["order_id"], rows["amount"], strict=True)) == {8: 1, 7: 3}
    rows = (
        shop(ORDERS).read({"Code": "A", "Orders": {"7": {"Amount": 2}, "07": {"Amount": 3}}}).tables["orders"]
    )
    assert rows["amount"] == [3]


@pytest.mark.parametrize(
    ("orders", "told"),
    [
        ("none", "Orders: expected an object or an array, found text"),
        ({"7": None}, "Orders.7: expected an object, found null"),
        ([{"OrderId": 7}, 5], "Orders[1]: expected an object, found an integer"),
        ({"x7": {}}, "Orders.x7: expected an integer, found text"),
        ({"9223372036854775808": {}}, "Orders.9223372036854775808: 9223372036854775808 is out of range"),
        ({"1" * 5000: {}}, "expected an integer, found text"),
        ([{"Amount": 7}], "Orders[0].OrderId: is required"),
        ([{"OrderId": "7"}], "Orders[0].OrderId: expected an integer, found text"),
        ({"7": {}, "8": {"Amount": "x"}}, "Orders.8.Amount: expected an integer, found text"),
        ([{"OrderId": 7, "Amount": 2**31}], "Orders[0].Amount: 2147483648 is out of range for integer"),
        ({"7": {"To": "Rome"}}, "Orders.7.To: expected an object, found text"),
        ({"7": {"To": {"City": 1}}}, "Orders.7.To.City: expected text, found an integer"),
    ],
)
def test_an_item_that_does_not_fit_is_refused_with_its_path(orders: Any, told: str) -> None:
    with pytest.raises(MappingError) as caught:
        shop(ORDERS).read({"Code": "A", "Orders": orders})
    assert told in str(caught.value)


def test_items_in_several_arrays_are_chosen_by_a_discriminator() -> None:
    table = Table(
        "orders",
        rows=Each("pages[].items[]", where={"kind": "order", "meta.live": True}),
        key=("tenant_id", "id"),
        columns=[Column("id", "id", TEXT), Column("place", POSITION, INTEGER)],
    )
    pages = [
        {"items": [{"kind": "order", "id": "a", "meta": {"live": True}}, {"kind": "note"}, None]},
        {"items": None},
        {
            "items": [
                {"kind": "order", "id": "b", "meta": {"live": True, "by": 1}},
                {"kind": "order", "meta": 1},
            ]
        },
    ]
    rows = shop(table).read({"Code": "A", "pages": pages}).tables["orders"]
    assert rows["id"] == ["a", "b"]
    assert rows["place"] == [0, 3]
    assert rows["extra"] == ["{}", '{"meta":{"by":1}}']
    assert rows.path(1) == "pages[2].items[0]"
    with pytest.raises(MappingError, match=r"^pages: expected an array, found an object$"):
        shop(table).read({"Code": "A", "pages": {}})


def test_a_position_is_a_place_in_an_array_and_nothing_else() -> None:
    table = Table(
        "lines", rows=Each("Lines"), key=("tenant_id", "n"), columns=[Column("n", POSITION, INTEGER)]
    )
    assert shop(table).read({"Code": "A", "Lines": [{}, {}]}).tables["lines"]["n"] == [0, 1]
    with pytest.raises(MappingError, match=r"^Lines: expected an array, found an object$"):
        shop(table).read({"Code": "A", "Lines": {"7": {}}})


def test_a_row_with_a_condition_is_there_only_where_the_path_is() -> None:
    table = Table(
        "members",
        rows=One(when="Club"),
        key=("customer_id",),
        extra=None,
        columns=[Ref("customer_id", "customers", "/Code"), Column("club", "Club", TEXT)],
    )
    assert shop(table).read({"Code": "A", "Club": "x"}).tables["members"].count == 1
    assert shop(table).read({"Code": "A", "Club": None}).tables["members"].count == 0


def sums(orders: Rows | None, unit: str, before: tuple[str, int] | None) -> tuple[str, int]:
    assert orders is not None
    return unit, sum(orders["amount"]) + (before[1] if before else 0)


def test_a_derived_column_sees_the_rows_of_another_table() -> None:
    total = Derived("total", JSON, sums, over="orders", path="Unit", then=lambda found: dict([found]))
    table = Table(
        "sums", key=("tenant_id", "code"), extra=None, columns=[Column("code", "Code", TEXT), total]
    )
    document = {"Code": "A", "Unit": "EUR", "Orders": {"1": {"Amount": 2}, "2": {"Amount": 3}}}
    assert shop(ORDERS, table).read(document).tables["sums"]["total"] == ['{"EUR":5}']
    assert shop(ORDERS, table).read(document).tables["customers"]["extra"] == ["{}"]


def test_what_a_function_works_out_must_fit_its_column() -> None:
    wrong = Derived("total", INTEGER, lambda _rows, _value, _before: "five")
    table = Table(
        "sums", key=("tenant_id", "code"), extra=None, columns=[Column("code", "Code", TEXT), wrong]
    )
    with pytest.raises(MappingError, match="total was worked out to be: expected an integer, found text"):
        shop(table).read({"Code": "A"})


# ---- unknown fields


@covers("F-36")
def test_unknown_fields_are_kept_with_their_own_row() -> None:
    document = {
        "Code": "A",
        "Vip": True,
        "Orders": {"7": {"Amount": 2, "To": {"City": "Rome", "Zip": "00100"}, "Gift": None}},
    }
    tables = shop(ORDERS).read(document).tables
    assert tables["customers"]["extra"] == ['{"Vip":true}']
    assert tables["orders"]["extra"] == ['{"To":{"Zip":"00100"},"Gift":null}']


@covers("F-36")
@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"Vip": True}, "data.Vip"),
        ({"Orders": {"7": {"Gift": 1}}}, "data.Orders.7.Gift"),
        ({"Orders": {"7": {"To": {"Zip": "00100"}}}}, "data.Orders.7.To.Zip"),
    ],
)
def test_a_strict_mapping_refuses_the_first_unknown_field(changed: dict[str, Any], path: str) -> None:
    mapping = shop(ORDERS, root=["data"], known=["Notes"])
    document = {"data": {"Code": "A", "Notes": 1, **changed}}
    mapping.read(document)
    with pytest.raises(MappingError, match="is not a known field") as caught:
        mapping.treating_unknown("refuse").read(document)
    assert caught.value.path == path
    assert mapping.unknown == "extra"


def test_an_envelope_is_optional_and_what_else_is_in_it_is_kept() -> None:
    mapping = shop(root=["result.data", "data", ""], ignored=["result.ok", "ok"], captured_at=["result.at"])
    full = {"result": {"data": {"Code": "A", "x": 1}, "ok": True, "at": "2020-01-01", "page": 2}, "v": 3}
    assert mapping.read(full).tables["customers"]["extra"] == ['{"v":3,"page":2,"x":1}']
    assert mapping.read({"data": {"Code": "A", "ok": 1}, "ok": 1}).tables["customers"]["extra"] == [
        '{"ok":1}'
    ]
    assert mapping.read({"Code": "A", "ok": True}).tables["customers"]["extra"] == ["{}"]
    with pytest.raises(MappingError, match=r"^result\.data\.Name: expected text"):
        mapping.read({"result": {"data": {"Code": "A", "Name": 1}}})


# ---- subject and time


def test_the_subject_is_the_key_of_the_subjects_row() -> None:
    assert shop().subject({"Code": "A"}) == "A"
    assert shop().read({"Code": "A"}).subject == "A"


@pytest.mark.parametrize("document", [None, 5, "text", [], [{"Code": "A"}]])
def test_a_document_that_is_no_object_is_refused(document: Any) -> None:
    with pytest.raises(MappingError, match="the document: expected an object"):
        shop().subject(document)
    with pytest.raises(MappingError):
        shop().read(document)


def test_a_document_of_no_subject_or_of_two_is_refused() -> None:
    patients = Table(
        "patients",
        rows=Each("entry[]", where={"kind": "Patient"}),
        key=("tenant_id", "id"),
        columns=[Column("id", "id", TEXT)],
    )
    mapping = Mapping("fhir", subject="patients", tables=[patients])
    assert mapping.subject({"entry": [{"kind": "Other"}, {"kind": "Patient", "id": "p"}]}) == "p"
    with pytest.raises(MappingError, match=r"^entry\[\]: holds 0 rows for patients; it must hold one$"):
        mapping.subject({"entry": []})
    with pytest.raises(MappingError, match="holds 2 rows"):
        mapping.read({"entry": [{"kind": "Patient", "id": "p"}, {"kind": "Patient", "id": "q"}]})


def test_the_time_of_capture_is_the_first_that_the_document_gives() -> None:
    mapping = shop(captured_at=["result.At", "At"], captured_as=EPOCH_MS)
    assert mapping.captured_at({"At": 1000}) == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert mapping.captured_at({"result": {"At": 0}, "At": 1000}) == datetime(1970, 1, 1, tzinfo=UTC)
    assert mapping.captured_at({"result": {}}) is None
    assert shop().captured_at({"At": 1000}) is None
    with pytest.raises(MappingError, match=r"^result\.At: expected milliseconds since 1970, found text$"):
        mapping.captured_at({"result": {"At": "now"}})


# ---- declarations


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ([CUSTOMERS], "table customers is declared twice"),
        ([Table("Bad Name", key=("code",), columns=[Column("code", "Code", TEXT)])], "is no lower-case name"),
        ([Table("t", key=("a", "nope"), columns=[Column("a", "A", TEXT)])], "key column nope is not among"),
        (
            [Table("t", key=("a",), columns=[Column("a", "A", TEXT), Column("a", "B", TEXT)])],
            "a is written twice",
        ),
        ([Table("t", key=("a",), columns=[Column("a", ID, TEXT)])], "only rows of Each have"),
        ([Table("t", key=("a",), columns=[Ref("a", "nowhere", "A")])], "not declared before it"),
        ([Table("t", key=("a",), left=Keep("seen"), columns=[Column("a", "A", TEXT)])], "left= needs a key"),
        (
            [Table("t", key=("a",), columns=[Column("a", "A", INTEGER, default="x")])],
            "has a default that does not fit: expected an integer",
        ),
        ([Table("t", key=("tenant_id",), columns=[Column("a", "A", TEXT)])], "its key has no column"),
        ([Table("t", rows=Each(""), key=("a",), columns=[Column("a", "A", TEXT)])], "Each needs the path"),
        (
            [Table("t", key=("a",), columns=[Column("a", "A", TEXT, catalogue=Catalogue("x; DROP"))])],
            "is no lower-case name",
        ),
        (
            [
                Table(
                    "t",
                    shared=True,
                    key=("a", "b"),
                    columns=[Column("a", "A", TEXT), Column("b", "B", TEXT)],
                )
            ],
            "shared= needs a key of one column",
        ),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused_at_once(tables: list[Table], told: str) -> None:
    with pytest.raises(MappingDeclarationError, match="mapping 'shop'") as caught:
        shop(*tables)
    assert told in str(caught.value)


def test_a_subject_must_be_one_of_the_tables() -> None:
    with pytest.raises(MappingDeclarationError, match="none of its tables"):
        Mapping("shop", subject="clients", tables=[CUSTOMERS])


# ---- the registry


def test_an_unknown_source_is_told_with_the_known_ones() -> None:
    known = Mappings([shop()])
    assert known.get("shop").name == "shop"
    with pytest.raises(UnknownSourceError, match="no mapping for source 'heroes'; known: shop"):
        known.get("heroes")


def test_a_second_mapping_for_a_source_is_refused() -> None:
    with pytest.raises(DuplicateMappingError, match="source 'shop' has two mappings"):
        Mappings([shop(), shop()])


def test_a_contradiction_is_told_with_the_line_of_what_was_declared() -> None:
    """The line is that of the word at fault, not of the mapping around it."""
    wrong = Column("age", "Age", INTEGER, default="old")
    with pytest.raises(MappingDeclarationError) as caught:
        shop(Table("people", key=("age",), columns=[wrong]))
    assert caught.value.at == wrong.at
    assert str(caught.value).startswith(f"{wrong.at}: mapping 'shop': table people: column age has a default")
    file, _, line = wrong.at.rpartition(":")
    assert Path(file).samefile(__file__)
    assert Path(__file__).read_text().splitlines()[int(line) - 1].startswith("    wrong = Column(")


def test_a_path_that_is_none_is_told_with_its_line_too() -> None:
    wrong = Column("age", "Age..Years", INTEGER)
    with pytest.raises(MappingDeclarationError, match=re.escape(f"{wrong.at}: 'Age..Years' is not a path")):
        shop(Table("people", key=("code",), columns=[Column("code", "Code", TEXT), wrong]))


def test_equal_words_are_equal_wherever_they_stand() -> None:
    first = Column("age", "Age", INTEGER)
    second = Column("age", "Age", INTEGER)
    assert first == second
    assert first.at != second.at


def test_a_number_is_kept_in_the_unit_of_its_column() -> None:
    assert value_of(scaled(DOUBLE, 1000), 1500, unit="s") == 1.5
    with pytest.raises(MappingDeclarationError, match="only DOUBLE is scaled"):
        scaled(INTEGER, 1000)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (Column("of", "Of", TEXT, refers="nobody"), "refers to 'nobody', which is not declared before it"),
        (
            Column("of", "Of", INTEGER, refers="customers"),
            "is integer and refers to customers.code, which is text",
        ),
    ],
)
def test_a_reference_by_value_is_to_a_table_before_it_and_of_its_type(column: Column, told: str) -> None:
    table = Table("people", key=("tenant_id", "code"), columns=[Column("code", "Code", TEXT), column])
    with pytest.raises(MappingDeclarationError, match=told):
        shop(table)


@covers("F-20")
def test_a_time_that_lies_ahead_is_no_time_at_which_a_document_was_taken() -> None:
    """It would supersede all that comes until then; an hour is left for clocks that are wrong."""
    mapping = Mapping(
        "shop",
        subject="customers",
        tables=[Table("customers", key=("tenant_id", "code"), columns=[Column("code", "Code", TEXT)])],
        captured_at=["At"],
        captured_as=EPOCH_S,
    )
    now = datetime.now(UTC)
    soon, far = now + timedelta(hours=1), now + timedelta(days=2)
    assert mapping.captured_at({"At": int(soon.timestamp())}) is not None
    with pytest.raises(MappingError, match=r"^At: .* lies more than a day ahead"):
        mapping.captured_at({"At": int(far.timestamp())})
    offer = Offer("a", b'{"Code": "A"}')
    assert judge(offer, mapping, soon).captured_at == soon
    with pytest.raises(CapturedAheadError, match=r"captured_at .* lies more than a day ahead"):
        judge(offer, mapping, far)
