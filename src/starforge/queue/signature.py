"""A handler's signature: what a payload must hold, checked at enqueue and read again before each attempt.

Made once, where the handler is declared. A payload is stored as JSON; the parameters' types say what is
made of it again: dates, UUIDs, decimals, enums, dataclasses, Structs, pydantic models, and what holds them.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from starforge.queue.depend import Dependency, dependency_of
from starforge.queue.errors import DeclarationError, PayloadError, PayloadMisfitError

log = structlog.get_logger("queue")

CONTEXT = "ctx"
"""A parameter of this name, or annotated with Context, gets the attempt's context."""

AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
NAMED = re.compile(r"^Object (?P<fault>missing required|contains unknown) field `(?P<field>.*)`$")

EXTRA_TOLD_MAX = 1000
"""Extra fields that are told of, each once; beyond that a producer makes them up."""

_extra_told: set[tuple[str, str]] = set()


class MisfitError(Exception):
    """A payload does not fit: the field, and what was expected and found there."""

    def __init__(self, field: str, fault: str) -> None:
        super().__init__(f"{field}: {fault}" if field else fault)
        self.field, self.fault = field, fault


@dataclass(frozen=True)
class Signature:
    """The parameters of one handler."""

    name: str
    """The job type's, for messages."""

    fields: tuple[str, ...]
    """The payload's, in the handler's order."""

    strict: type[msgspec.Struct]
    """What a producer's payload must be: nothing missing, nothing unknown."""

    lenient: type[msgspec.Struct]
    """What a stored payload is read as: what is unknown is left out."""

    context: str | None
    """The parameter that gets the context."""

    depends: Mapping[str, Dependency]
    """The parameters that are not in the payload but opened for the attempt."""

    positional_only: tuple[str, ...]
    open_ended: bool
    """The handler takes `**others`: then nothing is unknown."""

    python: inspect.Signature

    @classmethod
    def of(
        cls, handler: Callable[..., Any], name: str, *, context_type: type, names: Mapping[str, Any]
    ) -> Signature:
        """Read a handler's parameters; `names` are those that its annotations may use beside its module's.

        Raises: DeclarationError for what no JSON payload can give.
        """
        python = inspect.signature(handler)
        hints = _hints(handler, name, names)
        fields: list[tuple[str, Any, Any]] = []
        context = None
        depends: dict[str, Dependency] = {}
        for parameter in python.parameters.values():
            hint = hints.get(parameter.name, Any)
            if parameter.kind is parameter.VAR_POSITIONAL:
                raise DeclarationError(f"job {name}: *{parameter.name}: a payload's fields have names")
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            found = dependency_of(hint, parameter.default, context_type, names)
            if found is not None:
                depends[parameter.name] = found
            elif parameter.name == CONTEXT or hint is context_type:
                context = parameter.name
            else:
                fields.append((parameter.name, _readable(name, parameter.name, hint), _default(parameter)))
        fields.sort(key=lambda field: field[2] is not inspect.Parameter.empty)
        return cls(
            name=name,
            fields=tuple(field for field in python.parameters if field in {made[0] for made in fields}),
            strict=_struct(f"{name} payload", fields, forbid=not _open_ended(python)),
            lenient=_struct(f"{name} payload", fields, forbid=False),
            context=context,
            depends=depends,
            positional_only=tuple(p.name for p in python.parameters.values() if p.kind is p.POSITIONAL_ONLY),
            open_ended=_open_ended(python),
            python=python,
        )

    def encode(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return the payload as the JSON values that are stored, checked against the parameters.

        Raises: PayloadMisfitError with the field, what was expected and what came; PayloadError where a
            value has no JSON form.
        """
        try:
            text = msgspec.json.encode(payload, enc_hook=_encoded)
            msgspec.json.decode(text, type=self.strict, dec_hook=_decoded)
        except msgspec.ValidationError as error:
            misfit = told(error)
            raise PayloadMisfitError(self.name, misfit.field, misfit.fault, self.fields) from None
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise PayloadError(f"the payload of a {self.name} job is not JSON: {error}") from None
        plain: dict[str, Any] = msgspec.json.decode(text)
        return plain

    def payload(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the payload of a call with these Python arguments, checked as `encode` does."""
        given = dict(kwargs)
        if args:
            if len(args) > len(self.fields):
                raise PayloadMisfitError(
                    self.name, "", f"expected at most {len(self.fields)} values, got {len(args)}", self.fields
                )
            for field, value in zip(self.fields, args, strict=False):
                if field in given:
                    raise PayloadMisfitError(self.name, field, "given twice", self.fields)
                given[field] = value
        return self.encode(given)

    def read(self, payload: Mapping[str, Any]) -> msgspec.Struct:
        """Return a stored payload's fields as the parameters' types; raise MisfitError where it does not fit.

        A field that no parameter takes is left out and told of once: a newer producer may send it already.
        """
        try:
            values = msgspec.convert(payload, self.lenient, str_keys=True, dec_hook=_decoded)
        except msgspec.ValidationError as error:
            raise told(error) from None
        if len(payload) > len(self.fields):
            self._tell_of_extra(payload)
        return values

    def call(self, handler: Callable[..., Any]) -> Callable[[Any, Mapping[str, Any]], Any]:
        """Return a function of context and payload that calls the handler, with as little between as can be."""
        read = self.read
        astuple = msgspec.structs.astuple
        parameters = list(self.python.parameters)
        plain = not self.depends and not self.open_ended and self._in_order(parameters)
        if plain and self.context is None:
            if not self.fields:
                return lambda _ctx, payload: (read(payload), handler())[1] if payload else handler()
            return lambda _ctx, payload: handler(*astuple(read(payload)))
        if plain and parameters[0] == self.context:
            return lambda ctx, payload: handler(ctx, *astuple(read(payload)))

        def general(ctx: Any, payload: Mapping[str, Any], opened: Mapping[str, Any] | None = None) -> Any:
            args, kwargs = self.arguments(ctx, payload, opened or {})
            return handler(*args, **kwargs)

        return general

    def arguments(
        self, ctx: Any, payload: Mapping[str, Any], opened: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of the call: the payload's fields, the context, and what was opened."""
        values = msgspec.structs.asdict(self.read(payload))
        values.update(opened)
        if self.context is not None:
            values[self.context] = ctx
        if self.open_ended:
            values.update({field: value for field, value in payload.items() if field not in values})
        return [values.pop(name) for name in self.positional_only], values

    def _in_order(self, parameters: list[str]) -> bool:
        """Tell whether the struct's fields are the handler's positional parameters, in their order."""
        kinds = {parameter.kind for parameter in self.python.parameters.values()}
        wanted = [name for name in parameters if name != self.context]
        return (
            inspect.Parameter.KEYWORD_ONLY not in kinds
            and wanted == list(self.lenient.__struct_fields__)
            and (self.context is None or parameters[0] == self.context)
        )

    def _tell_of_extra(self, payload: Mapping[str, Any]) -> None:
        for field in () if self.open_ended else sorted(set(payload) - set(self.fields)):
            if (self.name, field) not in _extra_told and len(_extra_told) < EXTRA_TOLD_MAX:
                _extra_told.add((self.name, field))
                log.warning("job.field_unknown", type=self.name, field=field[:100])


def told(error: msgspec.ValidationError) -> MisfitError:
    """Return what msgspec says as a field's path and what is wrong there."""
    found = AT.match(str(error))
    what, path = (found["what"], found["path"] or "") if found else (str(error), "")
    named = NAMED.match(what)
    if named is not None:
        path = f"{path}.{named['field']}" if path else named["field"]
        what = "expected a value, got none" if named["fault"] == "missing required" else "unknown field"
    return MisfitError(path, what[:1].lower() + what[1:].replace("`", ""))


def _hints(handler: Callable[..., Any], name: str, names: Mapping[str, Any]) -> dict[str, Any]:
    target = handler if inspect.isroutine(handler) else getattr(handler, "func", None) or type(handler).__call__
    try:
        return typing.get_type_hints(target, localns=dict(names), include_extras=True)
    except (NameError, TypeError) as error:
        raise DeclarationError(
            f"job {name}: its annotations cannot be read where it is declared: {error}; import at run time"
            " what they name"
        ) from None


def _default(parameter: inspect.Parameter) -> Any:
    return parameter.default


def _open_ended(python: inspect.Signature) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in python.parameters.values())


def _struct(name: str, fields: list[tuple[str, Any, Any]], *, forbid: bool) -> type[msgspec.Struct]:
    made: list[Any] = []
    for field, hint, default in fields:
        if default is inspect.Parameter.empty:
            made.append((field, hint))
        else:
            # As Python does: the one default object is handed out each time.
            made.append((field, hint, msgspec.field(default_factory=lambda default=default: default)))
    return msgspec.defstruct(name, made, forbid_unknown_fields=forbid)


def _readable(name: str, field: str, hint: Any) -> Any:
    """Return the annotation; raise DeclarationError where no JSON value can become it."""
    try:
        kind = msgspec.inspect.type_info(hint)
    except (TypeError, NameError) as error:
        raise DeclarationError(f"job {name}: {field}: {error}") from None
    if isinstance(kind, msgspec.inspect.CustomType) and not hasattr(kind.cls, "model_validate"):
        raise DeclarationError(
            f"job {name}: {field}: no JSON value becomes a {kind.cls.__name__}; take what a payload can hold,"
            f" or open it for the attempt: {field} = Depends(…)"
        )
    return hint


def _encoded(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _decoded(kind: type, value: Any) -> Any:
    if hasattr(kind, "model_validate"):
        return kind.model_validate(value)
    raise TypeError(f"no JSON value becomes a {kind.__name__}")
