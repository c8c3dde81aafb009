"""Undo: the command that takes back what an operation did, with its arguments, to be pasted.

An inverse acts on the same thing: what both call by one name is the first one's. What it needs beside that,
the value that was there before, the room says in `Change.undo`. What nobody knows stands there by its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starforge.operation import OPERATIONS, Change, Operation
from starforge.ops.audit import redacted
from starforge.ops.registry import command_line

OF_EACH = ("reason", "minutes", "expect_version")
"""What each act has its own of, although both may call it so."""


def undone_by(operation: Operation, arguments: Mapping[str, Any], change: Change) -> str:
    """Return the command that undoes a change; empty where nothing does, or nothing was changed.

    Args:
        operation: What was done.
        arguments: Its arguments by name, without secrets.
        change: What came of it.
    """
    inverse = OPERATIONS.get(operation.inverse or "")
    if inverse is None or change.undo is None or not change.changed:
        return ""
    shared = {
        parameter.name: arguments.get(parameter.name)
        for parameter in inverse.parameters
        # An act that undoes itself is asked for again with what was before.
        if parameter.name not in OF_EACH and (inverse is not operation or parameter.positional)
    }
    known = {name: value for name, value in redacted(change.undo).items() if value not in (None, "")}
    return command_line(inverse, {**shared, **known})
