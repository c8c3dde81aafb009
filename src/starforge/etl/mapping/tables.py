"""The words of a mapping: tables, where their rows come from, their columns, and what becomes of rows.

Paths are relative to the row's item; a path that begins with `/` starts at the document's root and gives
every row of the document the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from starforge.etl.mapping.place import here
from starforge.etl.mapping.types import ANY, Type


class Own(Enum):
    """What a row has by itself rather than at a path."""

    ID = "id"
    """Its key in an object of items, or the value under `Each.id` in an array of them."""
    POSITION = "position"
    """Its place in an array, from 0."""


ID, POSITION = Own.ID, Own.POSITION

Missing = Literal["placeholder", "hold", "fail"]


def _at() -> Any:
    """Make the field that keeps where a word was said; equal words are equal wherever they stand."""
    return field(default_factory=here, init=False, compare=False, repr=False)


@dataclass(frozen=True)
class Catalogue:
    """A table that all tenants share and that a column's values refer to.

    Args:
        table: The catalogue, with a jsonb column `meta`.
        key: Its primary key.
        missing: What becomes of a value that it lacks: "placeholder" makes a row whose meta is
            {"placeholder": true}, and registers it; "hold" holds the document back until the catalogue
            has the entry; "fail" leaves the foreign key to refuse the document.
        owner: Who looks after its entries; named wherever one lacks.
    """

    table: str
    key: str = "id"
    missing: Missing = "placeholder"
    owner: str = ""


@dataclass(frozen=True)
class Column:
    """A column that takes the value at a path; null, or no value, is the default.

    Args:
        name: The column.
        path: Where the value is, or ID or POSITION.
        type: What it must be.
        default: What stands for null and absent, as JSON; not checked.
        required: Refuse the document where there is no value. Key columns always are.
        catalogue: The catalogue that the values refer to.
        refers: The table of the mapping whose own key the values are: a foreign key together with tenant_id.
        unit: What a number counts: "ms", "gold". It is told with the column; the type converts.
    """

    name: str
    path: str | Own
    type: Type
    default: Any = None
    required: bool = False
    catalogue: Catalogue | None = None
    refers: str | None = None
    unit: str = ""
    at: str = _at()


@dataclass(frozen=True)
class Ref:
    """A column that holds the database's own id of a row of another table of the mapping.

    Args:
        name: The column.
        to: The table referred to, which has one key column beside tenant_id.
        path: Where that row's key is; null refers to no row.
        id: The column of `to` whose value is kept.
        sql: Its type.
    """

    name: str
    to: str
    path: str
    id: str = "id"
    sql: str = "uuid"
    at: str = _at()


@dataclass(frozen=True)
class Derived:
    """A column worked out from the rows of another table of the same document.

    Args:
        name: The column.
        type: What it holds, as JSON would have it.
        by: Gets rows of the table `over` (None without one), the value at `path`, and what it returned for
            the rows before these, None at first: a large document comes in pieces. None becomes null.
        over: The table whose rows `by` looks at.
        path: Where a value is that only `by` wants.
        reads: What that value must be.
        then: Makes the column's value of what `by` returned last.
    """

    name: str
    type: Type
    by: Callable[[Rows | None, Any, Any], Any]
    over: str | None = None
    path: str | None = None
    reads: Type = ANY
    then: Callable[[Any], Any] | None = None
    at: str = _at()


AnyColumn = Column | Ref | Derived


@dataclass(frozen=True)
class One:
    """One row per document, from its root; none where nothing is at the path `when`."""

    when: str | None = None


@dataclass(frozen=True)
class Each:
    """One row per item of an array, or of an object of items.

    Args:
        path: From the root to the items: `Teams`; `entry[].resource` goes through an array on its way.
        id: The field of an item that holds its ID where the items come as an array.
        where: Only the items with these values, by path: {"resourceType": "Patient"}. What is no object
            or has another value there is passed over; without `where` it is refused.
    """

    path: str
    id: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Keep:
    """Rows that left the document stay; `column` is null while present, then the previous capture's time."""

    column: str


@dataclass(frozen=True)
class Delete:
    """Rows that left the document are deleted."""


@dataclass(frozen=True, eq=False)
class Table:
    """One table of a mapping; it has tenant_id, and created_at by its own default.

    Args:
        name: The table; also the entity that its watermark is kept under.
        columns: In any order; together with tenant_id, `extra` and `touched` they are all that is written.
        key: The columns of the unique key by which a row is found again; tenant_id may be among them. Of
            rows with equal keys the last one counts.
        rows: Where the rows come from.
        extra: The jsonb column for fields that no column takes; None where another table of the same
            object keeps them.
        left: What becomes of rows that the document no longer has: None, nothing. The rows looked at are
            those that share the key columns which are the same for the whole document.
        shared: Rows that documents of several subjects describe. Each row has its own watermark, and a
            row that brings nothing but its key changes nothing where the row exists.
        touched: Columns set to the time of the change when another column changes.
    """

    name: str
    columns: Sequence[AnyColumn]
    key: Sequence[str]
    rows: One | Each = field(default_factory=One)
    extra: str | None = "extra"
    left: Keep | Delete | None = None
    shared: bool = False
    touched: Sequence[str] = ("updated_at",)
    at: str = _at()

    def column(self, name: str) -> AnyColumn:
        """Return a column by its name."""
        return next(column for column in self.columns if column.name == name)

    @property
    def constant(self) -> list[AnyColumn]:
        """The columns that have one value for the whole document."""
        return [column for column in self.columns if is_constant(column)]

    @property
    def varying(self) -> list[AnyColumn]:
        """The columns that have a value of their own in each row."""
        return [column for column in self.columns if not is_constant(column)]

    @property
    def scope(self) -> list[str]:
        """The key columns that say whose rows these are: the same for the whole document."""
        names = {column.name for column in self.constant}
        return [name for name in self.key if name in names]

    @property
    def own_key(self) -> list[str]:
        """The key columns that tell the rows of one document apart."""
        names = {column.name for column in self.varying}
        return [name for name in self.key if name in names]


@dataclass(slots=True)
class Rows:
    """What one document holds for one table; `rows["level"]` is a column, jsonb as text.

    Until it is written a Ref's column holds the keys of the rows that it refers to.
    """

    table: Table
    columns: dict[str, list[Any]]
    constants: dict[str, Any]
    count: int
    path: Callable[[int], str]
    """The path of a row in the document."""

    def __getitem__(self, name: str) -> list[Any]:
        if name in self.constants:
            return [self.constants[name]] * self.count
        return self.columns[name]

    def take(self, places: Sequence[int]) -> Rows:
        """Return only these rows, in this order."""
        columns = {name: [values[place] for place in places] for name, values in self.columns.items()}
        return Rows(self.table, columns, self.constants, len(places), lambda row: self.path(places[row]))


def is_constant(column: AnyColumn) -> bool:
    """Tell whether a column has one value for the whole document."""
    return not isinstance(column, Derived) and isinstance(column.path, str) and column.path.startswith("/")
