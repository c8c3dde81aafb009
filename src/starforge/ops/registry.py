"""The registry: every operation of every room, and what each is called at its doors."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from shlex import quote
from typing import Any

import msgspec

from starforge.operation import OPERATIONS, Operation, Parameter
from starforge.ops.errors import UnknownOperationError

API = "/api/v1"


@cache
def load() -> None:
    """Import every room's `operations.py`, so that all operations are declared.

    The rooms are found and not listed: a new operation, or a room's first, needs no line elsewhere.
    """
    root = resources.files("starforge")
    for room in sorted(entry.name for entry in root.iterdir() if entry.is_dir()):
        if root.joinpath(room, "operations.py").is_file():
            importlib.import_module(f"starforge.{room}.operations")
    importlib.import_module("starforge.ops.coverage")  # what one room looks at for another's operations


def find(name: str) -> Operation:
    """Return the operation of that name; raise UnknownOperationError where there is none."""
    load()
    if name not in OPERATIONS:
        raise UnknownOperationError(name)
    return OPERATIONS[name]


def operations() -> list[Operation]:
    """Return every operation, sorted by name."""
    load()
    return [OPERATIONS[name] for name in sorted(OPERATIONS)]


def http_path(operation: Operation) -> str:
    """Return the path of the operation's HTTP door: /api/v1/queue/pause."""
    return f"{API}/{operation.noun}/{operation.verb.replace(' ', '-')}"


def command(operation: Operation) -> tuple[str, str]:
    """Return the words of the operation's command: ("queue", "pause")."""
    return operation.noun, operation.verb.replace(" ", "-")


def command_line(operation: Operation, arguments: Mapping[str, Any]) -> str:
    """Return the command that asks for the operation with these arguments, as a shell takes it.

    What is required and not given stands there by its type, to be filled in: --reason TEXT. So does what is
    kept nowhere.
    """
    words = ["starforge", *command(operation)]
    for parameter in operation.parameters:
        value = arguments.get(parameter.name)
        if not parameter.required and (value is None or value == parameter.default):
            continue
        if value is None or parameter.hidden:
            words.append(_usage_of(parameter))
        elif isinstance(value, bool):
            words.append(option_name(parameter) if value else f"--no-{option_name(parameter)[2:]}")
        else:
            plain = msgspec.to_builtins(value)
            text = quote(plain if isinstance(plain, str) else msgspec.json.encode(plain).decode())
            words += [text] if parameter.positional else [option_name(parameter), text]
    return " ".join(words)


def usage(operation: Operation) -> str:
    """Return the command line in short: starforge queue pause NAME --reason TEXT [--minutes NUMBER]."""
    words = ["starforge", *command(operation)]
    for parameter in operation.parameters:
        word = _usage_of(parameter)
        words.append(word if parameter.required else f"[{word}]")
    return " ".join(words)


def _usage_of(parameter: Parameter) -> str:
    if parameter.positional:
        return parameter.name.upper()
    option = option_name(parameter)
    if parameter.type_name == "yes/no":
        return option
    return f"{option} {parameter.type_name.upper()}"


def option_name(parameter: Parameter) -> str:
    """Return the option of the command line that sets the parameter: --run-after."""
    return "--" + parameter.name.replace("_", "-")


def document(operation: Operation) -> dict[str, Any]:
    """Return the operation as `starforge ops list --json` shows it."""
    path = http_path(operation)
    return {
        "name": operation.name,
        "help": operation.help,
        "role": operation.role,
        "inverse": operation.inverse,
        "risk": operation.risk,
        "needs_reason": operation.needs_reason,
        "parameters": [
            {
                "name": parameter.name,
                "type": parameter.type_name,
                "required": parameter.required,
                "default": parameter.default,
                "help": parameter.help,
            }
            for parameter in operation.parameters
        ],
        "doors": {"cli": usage(operation), "http": f"POST {path}", "http_plan": f"POST {path}/plan"},
    }
