"""What the commands print: text and tables for people, one JSON document for programs."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TypeVar

import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from starforge.db.migrate import check_version
from starforge.db.pool import Pool
from starforge.db.server import database
from starforge.errors import StarForgeError

T = TypeVar("T")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
PIPED_COLUMNS = 200
"""Width where the output is no terminal: what somebody may grep for is not broken into lines."""

NOTHING = "–"
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
REASON_COLUMNS = 30
"""Room that a reason needs beside the other columns."""

GAP = 2
CLI_CONNECTIONS = 2


def _unread(file: IO[str]) -> None:
    """Send nowhere what is still to be said: the reader left (`| head`). The command's work goes on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Fall silent; the exit code stays that of the work."""
        self.quiet = True
        _unread(self.file)


def _console(*, stderr: bool) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return _Console(stderr=stderr, width=None if terminal else PIPED_COLUMNS, highlight=False, emoji=False)


out = _console(stderr=False)
"""Standard output, for people. Text from elsewhere goes through `say`: here `[…]` is markup."""

err = _console(stderr=True)
"""Standard error, for people."""


def plain(value: object) -> Text:
    """Return a value as text that steers neither the terminal nor rich, whoever wrote it."""
    told = NOTHING if value is None else str(value)
    return Text(CONTROL.sub("\N{REPLACEMENT CHARACTER}", told))


def say(text: str, *, style: str = "", console: Console = out) -> None:
    """Print a line for people, whatever is in it."""
    line = plain(text)
    line.stylize(style)
    console.print(line, soft_wrap=True)


def print_json(document: object) -> None:
    """Print the one JSON document that a command with --json answers with."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _unread(sys.stdout)


def as_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, reason_last: bool = False) -> None:
    """Print a table for people. Nothing is cut: what is too long for its column goes on in the next line.

    A table whose first column is of ids, or with `reason_last`, has lines of their own for ids, for the last
    column, or for both where the terminal is too narrow: an id that is broken cannot be copied.
    """
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max([len(name), *(row[at].cell_len for row in cells)]) for at, name in enumerate(columns)]
    ids = any(ID.fullmatch(row[0].plain) for row in cells)
    room = min(widths[-1], REASON_COLUMNS) if reason_last else widths[-1]
    if (ids or reason_last) and _together(widths[:-1]) + GAP + room > out.width:
        _print_tall(columns, cells, widths, ids=ids, reason=reason_last)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(columns):
        table.add_column(name, overflow="fold", no_wrap=ids and at == 0)
    for row in cells:
        table.add_row(*row)
    out.print(table)


def _print_tall(
    columns: Sequence[str], cells: list[list[Text]], widths: list[int], *, ids: bool, reason: bool
) -> None:
    end = -1 if reason else len(columns)
    start = 1 if ids and _together(widths[:end]) > out.width else 0
    lines = [[Text(name, style="bold") for name in columns], *cells]
    for row in lines:
        for one in row[:start]:
            out.print(one, soft_wrap=True)
        line = Text("  " * start)
        for one, width in zip(row[start:end], widths[start:end], strict=True):
            line.append_text(one).append(" " * (width - one.cell_len + GAP))
        line.rstrip()
        out.print(line, soft_wrap=True)
        if reason and row[-1].plain not in ("", NOTHING):
            out.print(Text("  ").append_text(row[-1]), soft_wrap=True)


def _together(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


@contextmanager
def working(on: str) -> Iterator[None]:
    """Show on a terminal that something that takes a while is going on, and for how long already."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )
    bar.add_task(on, total=None)
    if not err.is_terminal:
        yield
        return
    with bar:
        yield


def fail(error: StarForgeError, *, as_json: bool = False) -> int:
    """Say what happened and what to do; return the exit code.

    A program that asked for JSON gets its one document on standard output, whatever happened.
    """
    if as_json:
        print_json(error.document())
    else:
        say(f"{error.code}: {error}" if error.code else str(error), style="bold red", console=err)
        if error.remedy:
            say(error.remedy, console=err)
    return error.exit_code


def run(work: Callable[[Pool], Awaitable[T]]) -> T:
    """Run `work` with a pool to this process's database, as the role of the runbooks' SQL.

    Raises: DatabaseUnreachableError, SchemaVersionError, and what `work` raises.
    """

    async def opened() -> T:
        async with database() as db:
            pool = await Pool.open(db.url("operator"), size=CLI_CONNECTIONS, application="starforge cli")
            try:
                async with pool.connection() as conn:
                    await check_version(conn, what="this command")
                return await work(pool)
            finally:
                await pool.close()

    return asyncio.run(opened())
