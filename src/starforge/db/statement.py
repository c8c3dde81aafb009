"""SQL statements as files: one statement, one file, beside the one function that runs it."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def sql(room: str, name: str) -> str:
    """Return the statement of `<room>/sql/<name>.sql`; raise FileNotFoundError where there is none."""
    return resources.files(f"starforge.{room}").joinpath("sql", f"{name}.sql").read_text("utf-8")


def body(text: str) -> str:
    """Return a statement without its header comments: what Postgres has to read."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return "\n".join(lines).strip()


def quoted(*parts: str) -> str:
    """Return a name as SQL has it, whatever characters it is written with."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def statements() -> list[tuple[str, str]]:
    """List every statement of every room as ("queue/claim", text), sorted."""
    found = []
    root = resources.files("starforge")
    for room in sorted(entry.name for entry in root.iterdir() if entry.is_dir()):
        folder = root.joinpath(room, "sql")
        if not folder.is_dir():
            continue
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".sql"):
                found.append((f"{room}/{file.name[:-4]}", file.read_text("utf-8")))
    return found
