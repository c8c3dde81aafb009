"""The command line: `starforge`. Exit codes: 0 done, 1 refused, 2 misused, 3 unreachable."""

from __future__ import annotations

import errno
import sys
from typing import Any

import asyncpg
import typer

from starforge import __version__
from starforge.cli import (
    backfill_checks,
    backfill_create,
    backfills,
    benches,
    capacity,
    database,
    development,
    explaining,
    history,
    kills,
    mappings,
    retention,
    settings,
    snapshot_looks,
    snapshot_tries,
    snapshots,
    sources,
    tasks,
    tokens,
    work,
    workers,
)
from starforge.cli.doors import add_doors
from starforge.cli.render import fail, run
from starforge.cli.tidy import tidy
from starforge.clock import failpoints
from starforge.db.pool import explained
from starforge.errors import MisusedError, StarForgeError

app = typer.Typer(
    name="starforge",
    help="Durable jobs, a snapshot ETL and backfills on Postgres, with the on-call runbooks built in.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"starforge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Durable jobs, a snapshot ETL and backfills on Postgres, with the on-call runbooks built in."""


work.add(app)
tasks.add(app)
settings.add(app)
capacity.add(app)
workers.add(app)
kills.add(app)
database.add(app)
tokens.add(app)
snapshots.add(app)
mappings.add(app)
sources.add(app)
snapshot_looks.add(app)
snapshot_tries.add(app)
retention.add(app)
backfills.add(app)
backfill_checks.add(app)
backfill_create.add(app)
explaining.add(app)
history.add(app)
development.add(app)
benches.add(app)
add_doors(app, run)
tidy(app)


class CommandLineError(MisusedError):
    """The words of a command are not those that it takes; told to a program, which asked for JSON."""

    code = "SF834"
    remedy = "The command shows what it takes with --help."


MISSPELT: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises of words that a command does not take; it has no name of its own there."""


def _run() -> None:
    """Run the command; to whoever asked for JSON also a misspelt one answers with a document."""
    if "--json" not in sys.argv:
        app()
        return
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except MISSPELT as error:
        misspelt: Any = error
        raise CommandLineError(misspelt.format_message()) from None


def main() -> None:
    """Run the command line; every error that StarForge raises on purpose becomes one message and a code."""
    try:
        failpoints()
        _run()
    except StarForgeError as error:
        sys.exit(fail(error, as_json="--json" in sys.argv))
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        sys.exit(fail(explained(error), as_json="--json" in sys.argv))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(fail(explained(error), as_json="--json" in sys.argv))
