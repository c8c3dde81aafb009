"""The isolated process: runs one job at a time for a child, and may be killed without harm to anybody.

Started as `python -m starforge.worker.isolated` with a JSON document of `IsolatedOrders` in its environment.
It is told its jobs as JSON lines on standard input and answers with JSON lines on what was its standard
output; what handlers print goes to standard error. It ends with its child, whoever holds the interpreter's
lock then, and when the machine's memory runs out it goes first.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys

from starforge.telemetry.tree import count_as
from starforge.worker.process import FIRST_TO_GO, die_with, goes_before_others, prints_by_line

ORDERS_ENV = "STARFORGE_ISOLATED_ORDERS"


def main() -> int:
    """Run jobs until the child has no more; return the exit status."""
    # Whoever stops a service may tell all its processes; only the child says what that means here. They are
    # not ignored: what a handler starts would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _unmoved)
    # Before anything that counts is imported.
    count_as(os.environ.pop("STARFORGE_ISOLATED_NAME"))
    import msgspec

    from starforge.errors import StarForgeError
    from starforge.loop import loop_factory
    from starforge.telemetry.log import configure
    from starforge.worker.errand import IsolatedOrders, serve

    orders = msgspec.json.decode(os.environ.pop(ORDERS_ENV), type=IsolatedOrders)
    die_with(orders.child)
    goes_before_others(FIRST_TO_GO)
    stacks = os.open(orders.stacks, os.O_WRONLY | os.O_APPEND)
    faulthandler.enable(file=stacks)
    faulthandler.register(signal.SIGQUIT, file=stacks, all_threads=True)
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    configure(orders.log_level)
    prints_by_line()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(orders, requests, replies))
    except StarForgeError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _unmoved(_number: int, _frame: object) -> None:
    """Go on."""


if __name__ == "__main__":
    sys.exit(main())
