"""What all groups of commands share: help that flows, and `ls` and `list` as two names of one command."""

from __future__ import annotations

import inspect

import typer

SAME = {"ls": "list", "list": "ls"}


def tidy(app: typer.Typer) -> None:
    """Bring the commands of an app, and of its groups, into their last shape."""
    for command in app.registered_commands:
        command.help = flowing(command.help or inspect.getdoc(command.callback) or "")
    known = {command.name: command for command in app.registered_commands}
    for name, other in SAME.items():
        found = known.get(name)
        if found is not None and other not in known and found.callback is not None:
            app.command(other, hidden=True, help=found.help)(found.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            tidy(group.typer_instance)


def flowing(text: str) -> str:
    """Return help whose paragraphs have no line ends of their own: a terminal of any width breaks them."""
    return "\n\n".join(
        paragraph if paragraph.startswith((" ", "-", "\b")) else " ".join(paragraph.split("\n"))
        for paragraph in text.split("\n\n")
    )
