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
from functools import cached_property, partial
from typing import Any

import msgspec
import structlog

from starforge.queue.depend import Dependency, dependency_of
from starforge.queue.errors import DeclarationError, PayloadError, PayloadMisfitError
from starforge.queue.outcome import MisfitError
from starforge.queue.results import plain

log = structlog.get_logger("queue")

CONTEXT = "ctx"
"""A parameter of this name, or annotated with Context, gets the attempt's context."""

AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
NAMED = re.compile(r"^Object (?P<fault>missing required|contains unknown) field `(?P<field>.*)`$")

EXTRA_TOLD_MAX = 1000
"""Extra fields that are told of, each once; beyond that a producer makes them up."""

_extra_told: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Signature:
    """The parameters of one handler."""

    name: str
    """The job type's, for messages."""

    fields: tuple[str, ...]
    """The payload's, in the handler's order."""

    typed: frozenset[str]
    """Those that an annotation says something of."""

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
        hints = hints_of(handler, f"job {name}", names)
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
                fields.append((parameter.name, _readable(name, parameter.name, hint), parameter.default))
        named = tuple(field for field, _, _ in fields)
        fields.sort(key=lambda field: field[2] is not inspect.Parameter.empty)
        return cls(
            name=name,
            fields=named,
            typed=frozenset(field for field, hint, _ in fields if hint is not Any),
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
            text = msgspec.json.encode(payload, enc_hook=plain)
            msgspec.json.decode(text, type=self.strict, dec_hook=_decoded)
        except msgspec.ValidationError as error:
            misfit = told(error)
            raise PayloadMisfitError(self.name, misfit.field, misfit.fault, self.fields) from None
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise PayloadError(f"the payload of a {self.name} job is not JSON: {error}") from None
        stored: dict[str, Any] = msgspec.json.decode(text)
        # Of what no annotation speaks for, the enqueue itself refuses what JSON would change silently.
        stored.update({field: value for field, value in payload.items() if field not in self.typed})
        return stored

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by the fields that they are for; `encode` checks them."""
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
        return given

    @cached_property
    def read(self) -> Callable[[Mapping[str, Any]], msgspec.Struct]:
        """A function that returns a stored payload's fields as the parameters' types.

        It raises MisfitError where the payload does not fit. A field that no parameter takes is left out and
        told of once: a newer producer may send it already.
        """
        convert, struct, most = _converter(self.lenient), self.lenient, len(self.fields)

        def read(payload: Mapping[str, Any]) -> msgspec.Struct:
            try:
                values = convert(payload, struct)
            except msgspec.ValidationError as error:
                raise told(error) from None
            if len(payload) > most:
                self._tell_of_extra(payload)
            return values

        return read

    @cached_property
    def in_order(self) -> bool:
        """Whether the handler takes the context, if any, and then the fields, by position."""
        kinds = {parameter.kind for parameter in self.python.parameters.values()}
        first = () if self.context is None else (self.context,)
        wanted = (*first, *self.lenient.__struct_fields__)
        return inspect.Parameter.KEYWORD_ONLY not in kinds and wanted == tuple(self.python.parameters)

    def arguments(
        self, ctx: Any, payload: Mapping[str, Any], read: msgspec.Struct, opened: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of the call: the fields that were read, the context, and what was opened."""
        values = {**msgspec.structs.asdict(read), **opened}
        if self.context is not None:
            values[self.context] = ctx
        if self.open_ended:
            values.update({field: value for field, value in payload.items() if field not in values})
        return [values.pop(name) for name in self.positional_only], values

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


def hints_of(handler: Callable[..., Any], what: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a handler's annotations say.

    Raises: DeclarationError, beginning with `what`, where they cannot be read.
    """
    target = (
        handler if inspect.isroutine(handler) else getattr(handler, "func", None) or type(handler).__call__
    )
    try:
        return typing.get_type_hints(target, localns=dict(names), include_extras=True)
    except (NameError, TypeError) as error:
        raise DeclarationError(
            f"{what}: its annotations cannot be read where it is declared: {error}; import at run time"
            " what they name"
        ) from None


def _open_ended(python: inspect.Signature) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in python.parameters.values())


def _struct(name: str, fields: list[tuple[str, Any, Any]], *, forbid: bool) -> type[msgspec.Struct]:
    made: list[Any] = []
    for field, hint, default in fields:
        if default is inspect.Parameter.empty:
            made.append((field, hint))
        else:
            # As Python does: the one default object is handed out each time.
            made.append((field, hint, msgspec.field(default_factory=partial(_same, default))))
    return msgspec.defstruct(name, made, forbid_unknown_fields=forbid)


def _converter(struct: type[msgspec.Struct]) -> Callable[[Any, type[msgspec.Struct]], msgspec.Struct]:
    """Return convert as far as this struct needs it: its options cost three times what it does."""
    if _is_plain(msgspec.inspect.type_info(struct), set()):
        return msgspec.convert
    return partial(msgspec.convert, str_keys=True, dec_hook=_decoded)


def _is_plain(kind: msgspec.inspect.Type, seen: set[object]) -> bool:
    """Tell whether a type is read without hooks: it holds no foreign class, and no keys that are not text."""
    if isinstance(kind, msgspec.inspect.CustomType):
        return False
    if isinstance(kind, msgspec.inspect.DictType) and not isinstance(
        kind.key_type, (msgspec.inspect.StrType, msgspec.inspect.AnyType)
    ):
        return False
    if (cls := getattr(kind, "cls", None)) is not None:
        if cls in seen:
            return True
        seen.add(cls)
    inner = [
        getattr(kind, name) for name in ("type", "item_type", "key_type", "value_type") if hasattr(kind, name)
    ]
    for name in ("types", "item_types"):
        inner += getattr(kind, name, ())
    inner += [field.type for field in getattr(kind, "fields", ())]
    return all(_is_plain(each, seen) for each in inner)


def _same(value: Any) -> Any:
    return value


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


def _decoded(kind: type, value: Any) -> Any:
    if hasattr(kind, "model_validate"):
        return kind.model_validate(value)
    raise TypeError(f"no JSON value becomes a {kind.__name__}")
