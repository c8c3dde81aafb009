"""Declaration: a proposed mapping written as Python source. Nothing of a document becomes code."""

from __future__ import annotations

import re
from dataclasses import dataclass

WORDS = frozenset(
    {
        *("BIGINT", "BOOLEAN", "DATE", "DOUBLE", "EPOCH_MS", "EPOCH_S", "ID", "INTEGER", "JSON", "LIST"),
        *("OBJECT", "POSITION", "TEXT", "TIMESTAMP"),
        *("Column", "Delete", "Each", "Keep", "Mapping", "Ref", "Table", "array"),
    }
)
"""What a draft may use of `starforge.etl.mapping`."""


@dataclass(slots=True)
class Drafted:
    """One proposed table."""

    name: str
    rows: str
    """As source: One(), Each("Troops", id="TroopId")."""

    columns: list[str]
    key: list[str]
    left: str = ""
    singular: bool = False
    """One row in every document."""

    own_key: str | None = None
    """The path of the key column that tells it apart, where it has just one."""


def source(
    name: str, subject: str, root: str, tables: list[Drafted], taken_at: tuple[str, str] | None
) -> str:
    """Write a mapping of these tables, and an app with it, as Python source."""
    body = "\n".join(_table_source(table) for table in tables)
    roots = f"    root=[{said(root)}, {said('')}],\n" if root else ""
    if taken_at is not None:
        roots += f"    captured_at=[{said(taken_at[0])}],\n    captured_as={taken_at[1]},\n"
    text = (
        f"MAPPING = Mapping(\n    {said(name)},\n    subject={said(subject)},\n{roots}"
        f"    tables=[\n{body}\n    ],\n)\n\n"
        f"app = StarForge({said(name)}, mappings=[MAPPING])\n"
    )
    words = sorted({word for word in re.findall(r"\b[A-Za-z_]+\b", _code(text)) if word in WORDS})
    imports = "".join(f"    {word},\n" for word in [*filter(str.isupper, words), *_lower_last(words)])
    return (
        f'"""A draft: correct its keys, types and names before it is used."""\n\n'
        f"from starforge.app import StarForge\nfrom starforge.etl.mapping import (\n{imports})\n\n{text}"
    )


def _lower_last(words: list[str]) -> list[str]:
    rest = [word for word in words if not word.isupper()]
    return [word for word in rest if word[0].isupper()] + [word for word in rest if word[0].islower()]


def _code(text: str) -> str:
    """Leave out what stands in quotes."""
    return re.sub(r"'(\\.|[^'\\])*'|\"(\\.|[^\"\\])*\"", "''", text)


def _table_source(table: Drafted) -> str:
    lines = [f"            {said(table.name)},"]
    lines += [f"            rows={table.rows},"] if table.rows else []
    key = ", ".join(map(said, table.key)) + ("," if len(table.key) == 1 else "")
    lines.append(f"            key=({key}),")
    lines += [f"            left={table.left},"] if table.left else []
    columns = "".join(f"                {column},\n" for column in table.columns)
    lines.append(f"            columns=[\n{columns}            ],")
    return "        Table(\n" + "\n".join(lines) + "\n        ),"


def said(text: str) -> str:
    """Write a text as Python source."""
    plain = repr(text)
    return plain if "'" in text or '"' in text else f'"{plain[1:-1]}"'
