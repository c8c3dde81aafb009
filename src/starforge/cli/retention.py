"""`starforge retention list`: how long what is kept, and who says so."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from starforge.cli.doors import group
from starforge.cli.render import as_table, print_json
from starforge.cli.snapshot_looks import read
from starforge.cli.work import JsonOption

if TYPE_CHECKING:
    from starforge.db.pool import Connection
    from starforge.etl.retention.retention import Rule


def add(app: typer.Typer) -> None:
    """Add this module's command."""
    group(app, "retention").command("list")(list_)


def list_(as_json: JsonOption = False) -> None:
    """List how long snapshots, captures, quarantine and errors are kept: by the settings, and by rules."""
    from starforge.etl.retention.retention import KINDS, RetentionSettings, rules

    async def look(conn: Connection, tenant: str) -> list[Rule]:
        return await rules(conn, tenant)

    found, settings = read(look), RetentionSettings.read()
    if as_json:
        print_json(
            {
                "settings": {kind: settings.days(kind) for kind in KINDS},
                "rules": [asdict(one) for one in found],
            }
        )
        return
    lines: list[tuple[object, ...]] = [
        (kind, "every source", _days(settings.days(kind)), "settings", None) for kind in KINDS
    ]
    lines += [
        (one.kind, one.source or "every source", _days(one.days), one.owner, one.reason) for one in found
    ]
    as_table(("what", "of", "is kept", "by", "reason"), lines)


def _days(days: int) -> str:
    return f"{days} days" if days else "for ever"
