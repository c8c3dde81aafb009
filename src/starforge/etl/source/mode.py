"""Modes: a source is read strictly or tolerantly, switched while workers run, with owner, reason and end.

Strict: a field that nothing takes fails the document, with its path. Tolerant: it is kept in `extra`. What a
mapping says itself counts where nobody has switched.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.etl.errors import ModeNotSetError
from starforge.etl.mapping import Mapping, Unknown

Mode = Literal["strict", "tolerant"]
UNKNOWN: dict[str, Unknown] = {"strict": "refuse", "tolerant": "extra"}
EVERY_TENANT = ""


@dataclass(frozen=True, slots=True)
class SourceMode:
    """A switch that holds now."""

    tenant_id: str
    source: str
    mode: str
    owner: str
    reason: str
    created_at: datetime
    expires_at: datetime

    def document(self) -> dict[str, Any]:
        """Return it as an operation's before and after show it."""
        return {
            "mode": self.mode,
            "tenant": self.tenant_id or "all",
            "owner": self.owner,
            "reason": self.reason,
            "since": self.created_at,
            "until": self.expires_at,
        }


class Modes:
    """The switches that hold now, of all sources."""

    def __init__(self, found: list[SourceMode]) -> None:
        self._found = {(each.tenant_id, each.source): each for each in found}

    def of(self, tenant: str, source: str) -> SourceMode | None:
        """Return what holds for a tenant's source: its own switch before that of all."""
        return self._found.get((tenant, source)) or self._found.get((EVERY_TENANT, source))

    def exactly(self, tenant: str, source: str) -> SourceMode | None:
        """Return a tenant's own switch, or that of all, and no other."""
        return self._found.get((tenant, source))

    def applied(self, mapping: Mapping, tenant: str) -> Mapping:
        """Return the mapping as it is to be used now."""
        chosen = self.of(tenant, mapping.name)
        if chosen is None or UNKNOWN[chosen.mode] == mapping.unknown:
            return mapping
        return mapping.treating_unknown(UNKNOWN[chosen.mode])


async def modes(conn: Connection, source: str | None = None) -> Modes:
    """Read the switches that hold now."""
    return Modes([SourceMode(**row) for row in await conn.fetch(sql("etl", "modes"), source)])


async def switch(
    conn: Connection, tenant: str, source: str, mode: Mode, *, owner: str, reason: str, minutes: int
) -> SourceMode:
    """Read a source strictly or tolerantly until the minutes are over; switching again renews it."""
    row = await conn.fetchrow(sql("etl", "mode_set"), tenant, source, mode, owner, reason, minutes)
    assert row is not None  # it inserts or replaces
    return SourceMode(**row)


async def reset(conn: Connection, tenant: str, source: str) -> SourceMode:
    """Read a source as its mapping says; raise ModeNotSetError where nothing was switched."""
    row = await conn.fetchrow(sql("etl", "mode_reset"), tenant, source)
    if row is None:
        raise ModeNotSetError(f"the mode of source {source!r} is not switched for {tenant or 'all tenants'}")
    return SourceMode(**row)
