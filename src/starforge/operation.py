"""Operations: every act that changes state on somebody's behalf is declared once, in its room.

A room's `operations.py` decorates a function with `@operation`. The function's signature is the
command line's arguments, the API's body and the console's form; its docstring is the help. All doors
run it through `ops/perform.py`, which adds role, plan, reason, idempotency key and audit.
"""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

import msgspec

from starforge.errors import MisusedError

ROLES = ("viewer", "operator", "admin")
"""Least to most; a role may do what the ones before it may."""

Risk = Literal["reversible", "destructive"]

RESERVED = ("plan", "plan_id", "key", "json")
"""Words that the doors take for themselves; no argument of an operation may have one as its name."""


class BadArgumentError(MisusedError):
    """An operation was called with an argument that its signature does not take."""

    code = "SF020"
    remedy = "Call it with the arguments that `starforge ops list --json` shows for it."


@dataclass(frozen=True, slots=True)
class Hidden:
    """A note on a parameter: audit log and plans keep a hash of its value, for example of a person's name."""


HIDDEN = Hidden()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name, role and tenant that a door has established, and how it was reached."""

    actor: str
    role: str
    tenant: str
    conn: Any
    """The connection whose open transaction holds both the change and its audit row."""

    source_address: str | None = None
    request_id: UUID | None = None
    committed: list[Callable[[], None]] = field(default_factory=list)
    """What is called once the transaction has committed, and never for a plan: somebody is told, say."""

    planning: bool = False
    """All of it is taken back: an id that is made now is none that there will be."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an operation did, or in a plan would do."""

    summary: str
    """One sentence for the person who asked."""

    matched: int
    """Rows that the request addressed."""

    changed: int
    """Rows that are different now; fewer than matched where some were as wanted already."""

    sample: tuple[str, ...] = ()
    """Up to ten ids or names of what matched."""

    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    undo: Mapping[str, Any] | None = field(default_factory=dict)
    """Arguments of the inverse that are not this act's own: the value that was there before.

    None: the inverse would undo something else, for what was done is not the usual."""

    next: Mapping[str, str] = field(default_factory=dict)
    """What makes sense after it, and with which command: "to follow it": "starforge …"."""

    def document(self) -> dict[str, Any]:
        """Return the change as JSON values."""
        document: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return document


Act = Callable[..., Awaitable[Change]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of an operation as the doors need it."""

    name: str
    type: Any
    """The type alone, without notes and bounds: `int | None`."""

    bounded: Any
    """The type with its bounds as msgspec checks them: `Annotated[int, Meta(ge=1)] | None`."""

    required: bool
    default: Any
    positional: bool
    """True for what the command line takes as a word, False for what it takes as an option."""

    help: str
    hidden: bool = False
    """Its value is kept nowhere, only a hash of it."""

    python_name: str = ""
    """What the function calls it, where that is not its name: `from_` for `from`, a word of Python's own."""

    @property
    def called(self) -> str:
        """What the function, and a command made from it, call the parameter."""
        return self.python_name or self.name

    @property
    def type_name(self) -> str:
        """The type in words: text, number, yes/no, id …"""
        names = {str: "text", int: "number", float: "number", bool: "yes/no", UUID: "id"}
        if self.choices:
            return " or ".join(self.choices)
        return names.get(bare_type(self.type), str(self.type))

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are allowed, where only some are."""
        bare = bare_type(self.type)
        return typing.get_args(bare) if typing.get_origin(bare) is typing.Literal else ()

    def convert(self, value: Any) -> Any:
        """Return the value as the parameter's type; text is read as what it says where that is another.

        Raises: msgspec.ValidationError when it is not of the type or outside its bounds.
        """
        try:
            return msgspec.convert(value, self.bounded)
        except msgspec.ValidationError:
            if not isinstance(value, str):
                raise
            return msgspec.convert(value, self.bounded, strict=False)


def bare_type(annotation: Any) -> Any:
    """Return T for `T | None`, else the annotation itself."""
    if _is_union(annotation):
        rest = [part for part in typing.get_args(annotation) if part is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def _is_union(annotation: Any) -> bool:
    return isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union


def _without_bounds(annotation: Any) -> Any:
    """Return the type without the notes of `Annotated`, also inside a union."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _without_bounds(typing.get_args(annotation)[0])
    if _is_union(annotation):
        return functools.reduce(operator.or_, map(_without_bounds, typing.get_args(annotation)))
    return annotation


@dataclass(frozen=True, slots=True)
class Operation:
    """One declared act."""

    name: str
    role: str
    inverse: str | None
    risk: Risk
    act: Act
    parameters: tuple[Parameter, ...]
    help: str

    @property
    def noun(self) -> str:
        return self.name.split()[0]

    @property
    def verb(self) -> str:
        return " ".join(self.name.split()[1:])

    @property
    def needs_reason(self) -> bool:
        """Destructive and bulk acts are refused without one; a `reason` without default says so too."""
        return self.risk == "destructive" or any(p.name == "reason" and p.required for p in self.parameters)

    def run(self, caller: Caller, arguments: Mapping[str, Any]) -> Awaitable[Change]:
        """Call the function with bound arguments."""
        called = {parameter.name: parameter.called for parameter in self.parameters}
        return self.act(caller, **{called[name]: value for name, value in arguments.items()})

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Convert text or JSON arguments to the signature's types; raise BadArgumentError otherwise."""
        known = {parameter.name: parameter for parameter in self.parameters}
        if unknown := sorted(set(arguments) - set(known)):
            raise BadArgumentError(
                f"{self.name} takes no argument {', '.join(unknown)}; it takes {', '.join(known)}"
            )
        bound: dict[str, Any] = {}
        for name, parameter in known.items():
            value = arguments.get(name)
            if value is None:
                if parameter.required:
                    raise BadArgumentError(
                        f"{self.name} needs {name}: {parameter.help or parameter.type_name}"
                    )
                bound[name] = parameter.default
                continue
            try:
                bound[name] = parameter.convert(value)
            except msgspec.ValidationError as error:
                # The value itself stays out of the message: it may be a secret.
                allowed = f"; it is {parameter.type_name}" if parameter.choices else ""
                raise BadArgumentError(f"{self.name}: {name}: {error}{allowed}") from None
        return bound


OPERATIONS: dict[str, Operation] = {}


def operation(
    name: str, *, role: str, inverse: str | None, risk: Risk = "reversible"
) -> Callable[[Act], Act]:
    """Declare an operation.

    Args:
        name: "noun verb" as the command line says it: "queue pause".
        role: Least role that may ask for it.
        inverse: Name of the operation that undoes it; None where nothing does.
        risk: destructive where something cannot be had back.
    """
    if role not in ROLES:
        raise TypeError(f"operation {name}: role {role!r} is none of {ROLES}")

    def declare(act: Act) -> Act:
        if name in OPERATIONS:
            raise TypeError(f"operation {name} is declared twice")
        parameters = _parameters(act)
        names = [parameter.name for parameter in parameters]
        if taken := sorted(set(names) & set(RESERVED)):
            raise TypeError(f"operation {name}: the doors use the name {', '.join(taken)} themselves")
        if risk == "destructive" and "reason" not in names:
            raise TypeError(f"operation {name} is destructive and takes no reason")
        OPERATIONS[name] = Operation(
            name=name,
            role=role,
            inverse=inverse,
            risk=risk,
            act=act,
            parameters=parameters,
            help=inspect.getdoc(act) or "",
        )
        return act

    return declare


def _parameters(act: Act) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(act, include_extras=True)
    found = []
    for parameter in list(inspect.signature(act).parameters.values())[1:]:
        annotation = hints[parameter.name]
        notes = typing.get_args(annotation)[1:] if typing.get_origin(annotation) is typing.Annotated else ()
        required = parameter.default is parameter.empty
        found.append(
            Parameter(
                name=parameter.name.removesuffix("_"),
                python_name=parameter.name,
                type=_without_bounds(annotation),
                bounded=annotation,
                required=required,
                default=None if required else parameter.default,
                positional=parameter.kind is not parameter.KEYWORD_ONLY,
                help=next((note for note in notes if isinstance(note, str)), ""),
                hidden=HIDDEN in notes,
            )
        )
    return tuple(found)
