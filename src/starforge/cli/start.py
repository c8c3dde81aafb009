"""Where the program begins: Ctrl-C ends it without a word also while its modules are still being read."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""What a shell expects of a program that ended by Ctrl-C."""


def main() -> None:
    """Run the command line."""
    try:
        from starforge.cli.main import main as command_line  # half a second of modules

        command_line()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
