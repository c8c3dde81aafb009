"""The command `settings`: every setting with what wins, default, environment or an override."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starforge.cli.render import as_table, err, print_json, say
from starforge.errors import StarForgeError

if TYPE_CHECKING:
    from starforge.queue.override import Override

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
OVERRIDE = "override"


def add(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("settings")(settings)


def settings(as_json: JsonOption = False) -> None:
    """Show every setting with its value, where that comes from, its default, unit and meaning.

    What was overridden at run time is read from the database, where one is running; it wins.
    """
    from starforge.settings import shown_settings

    _load_every_module()
    lines: list[dict[str, Any]] = [
        {**asdict(line), "owner": None, "until": None, "reason": None} for line in shown_settings()
    ]
    for override in asyncio.run(_overrides()):
        _show(override, lines)
    if as_json:
        print_json(lines)
        return
    as_table(
        ("setting", "value", "source", "default", "unit", "meaning"),
        [
            (
                line["env"],
                line["value"],
                _source(line),
                line["default"],
                line["unit"],
                f"{line['meaning']}{' (' + line['allowed'] + ')' if line['allowed'] else ''}",
            )
            for line in lines
        ],
    )


def _load_every_module() -> None:
    """Import the whole package: a room's settings are declared once the module that has them is loaded."""
    import starforge

    for module in pkgutil.walk_packages(starforge.__path__, "starforge."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)


async def _overrides() -> list[Override]:
    """Read what is overridden; no server is started for that, and where none answers it is said."""
    from starforge.db.embedded import peek
    from starforge.db.migrate import check_version
    from starforge.db.pool import PoolSettings, connect
    from starforge.queue.override import overrides
    from starforge.settings import HomeSettings

    url = PoolSettings.read().url
    if not url:
        running = await asyncio.to_thread(peek, HomeSettings.read().home)
        if running is None:
            return []
        url = running.dsn("operator")
    try:
        conn = await connect(url, application="starforge cli")
        try:
            await check_version(conn, what="this command")
            return await overrides(conn)
        finally:
            await conn.close()
    except StarForgeError as error:
        say(f"overrides could not be read: {error}", console=err)
        return []


def _show(override: Override, lines: list[dict[str, Any]]) -> None:
    """Put an override into its setting's line where it holds for all, else behind it."""
    from starforge.queue.override import CATALOGUE, said

    of = CATALOGUE.get(override.setting)
    place = next((n for n, line in enumerate(lines) if of is not None and line["env"] == of.over), None)
    wins = {
        "value": said(override.value),
        "source": OVERRIDE,
        "owner": override.owner,
        "until": override.expires_at,
        "reason": override.reason,
    }
    if place is not None and override.scope == "all":
        lines[place] = {**lines[place], **wins}
        return
    whose = f"{override.scope} {override.name}".strip()
    base = {
        "env": f"{override.setting} of {whose}",
        "default": "",
        "unit": "" if of is None else of.unit,
        "meaning": "" if of is None else of.meaning,
        "allowed": "",
        "room": "queue",
    }
    lines.insert(len(lines) if place is None else place + 1, {**base, **wins})


def _source(line: dict[str, Any]) -> str:
    if line["source"] != OVERRIDE:
        return str(line["source"])
    return f"{OVERRIDE} by {line['owner']} until {line['until']:%Y-%m-%d %H:%M} UTC: {line['reason']}"
