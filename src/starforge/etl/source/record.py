"""Noted: what the database knows of a source's mapping: acts on its rows need no app (erase, owner)."""

from __future__ import annotations

from starforge.db.pool import Pool
from starforge.db.statement import sql
from starforge.etl.mapping import Mapping
from starforge.etl.mapping.tables import Ref

_noted: set[tuple[str, str, str | None]] = set()
"""Database, source and owner of what this process has noted."""


async def note_source(pool: Pool, mapping: Mapping) -> None:
    """Note once per process who answers for a source and where its rows go; rows only come after this."""
    known = (pool.url, mapping.name, mapping.owner)
    if known in _noted:
        return
    tables = [
        {
            "name": table.name,
            "shared": table.shared,
            "refs": [
                {"column": column.name, "to": column.to, "id": column.id}
                for column in table.columns
                if isinstance(column, Ref)
            ],
        }
        for table in mapping.tables.values()
    ]
    subject_table, subject_key = mapping.subject_key
    async with pool.connection() as conn:
        await conn.execute(
            sql("etl", "note_source"), mapping.name, mapping.owner, subject_table, subject_key, tables
        )
    _noted.add(known)
