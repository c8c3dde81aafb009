"""Parts: rows of one table that come from documents which are written together, and how they are sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from starforge.etl.mapping.reading import NO_EXTRA
from starforge.etl.mapping.tables import AnyColumn, Ref, Rows
from starforge.etl.mapping.types import array_text


@dataclass(frozen=True, slots=True)
class Written:
    """What one document changed.

    Args:
        rows_written: Rows of the mapping's tables inserted, changed or deleted; 0 for a replay.
        placeholders: By catalogue: the ids for which a row was made.
        superseded: The entities of which a later capture had been written already, sorted.
        complete: False when these are all of the subject's entities, so that nothing was written.
    """

    rows_written: int
    placeholders: dict[str, list[int | str]]
    superseded: tuple[str, ...]
    complete: bool


@dataclass(slots=True)
class Writing:
    """What is known of one document while its rows are written."""

    subject: str
    captured_at: datetime
    previous: dict[str, datetime | None] = field(default_factory=dict)
    """By entity: when what was written before was captured."""
    superseded: set[str] = field(default_factory=set)
    complete: bool = True
    rows_written: int = 0
    placeholders: dict[str, list[int | str]] = field(default_factory=dict)

    def told(self) -> Written:
        """Say what was written."""
        return Written(self.rows_written, self.placeholders, tuple(sorted(self.superseded)), self.complete)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one table that come from one document."""

    document: Writing
    rows: Rows


def slices(rows: Rows, batch: int) -> Iterator[Rows]:
    """Cut rows into batches; none where there is no row."""
    if 0 < rows.count <= batch:
        yield rows
        return
    for first in range(0, rows.count, batch):
        yield rows.take(range(first, min(first + batch, rows.count)))


def batches(parts: list[Part], batch: int) -> Iterator[list[Part]]:
    """Put rows of several documents together, at most a batch at a time."""
    some: list[Part] = []
    for part in parts:
        for rows in slices(part.rows, batch):
            if some and sum(one.rows.count for one in some) + rows.count > batch:
                yield some
                some = []
            some.append(Part(part.document, rows))
    if some:
        yield some


def scope_of(rows: Rows) -> tuple[Any, ...]:
    """Return the values that say whose rows these are."""
    return tuple(rows.constants[name] for name in rows.table.scope)


def sent(parts: list[Part]) -> list[Any]:
    """Return the rows as they are sent: an array for each column."""
    table = parts[0].rows.table
    arrays = [sent_array(column, _values(parts, column.name)) for column in (*table.constant, *table.varying)]
    return [*arrays, _values(parts, table.extra)] if table.extra else arrays


def sent_column(rows: Rows, name: str) -> list[Any]:
    """Return a column as it is sent: null for no extra fields."""
    if name == rows.table.extra:
        return [None if value == NO_EXTRA else value for value in rows.columns[name]]
    return rows[name]


def sent_keys(parts: list[Part]) -> list[Any]:
    """Return what tells the rows apart: an array for each column of the scope and of the own key."""
    table = parts[0].rows.table
    return [sent_array(table.column(name), _values(parts, name)) for name in (*table.scope, *table.own_key)]


def sent_scopes(parts: list[Part]) -> list[Any]:
    """Return the distinct values of each column of the scope."""
    table = parts[0].rows.table
    return [
        sent_array(table.column(name), list({part.rows.constants[name] for part in parts}))
        for name in table.scope
    ]


def _values(parts: list[Part], name: str) -> list[Any]:
    if len(parts) == 1:
        return sent_column(parts[0].rows, name)
    return list(chain.from_iterable(sent_column(part.rows, name) for part in parts))


def sent_array(column: AnyColumn, values: list[Any]) -> Any:
    """Return a column as it is sent."""
    literal = not isinstance(column, Ref) and column.type.literal
    return array_text(values) if literal else values
