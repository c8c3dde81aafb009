"""Settings: each room declares its own group; one list shows them all with their sources.

A setting is a field of a `Settings` group with its environment name, default, unit and meaning. What
wins: default < environment < override in the database (with owner and expiry; read by the running
process that honours it). Values are checked when a group is read, so a bad one stops the start.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from starforge.errors import InvalidSettingError

GROUPS: dict[str, type[Settings]] = {}
_READ: dict[type[Settings], tuple[tuple[object, ...], Settings]] = {}
_environ = os.environ._data  # type: ignore[attr-defined] # as it is kept: os.environ decodes, at ten times the price


def setting(default: Any, *, env: str, unit: str, meaning: str, secret: bool = False, **bounds: Any) -> Any:
    """Declare one setting.

    Args:
        default: Value where the environment says nothing.
        env: Name of the environment variable.
        unit: What the number counts, or the kind of text.
        meaning: One sentence for the operator.
        secret: The value is never shown.
        bounds: ge, gt, le, lt, pattern … as pydantic's Field takes them.
    """
    extra: dict[str, Any] = {"unit": unit, "secret": secret}
    return Field(default, validation_alias=env, description=meaning, json_schema_extra=extra, **bounds)


class Settings(BaseSettings):
    """A room's group of settings; subclassing registers it."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True, case_sensitive=True)
    _env_names: ClassVar[tuple[object, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        GROUPS[f"{cls.__module__}.{cls.__name__}"] = cls

    @classmethod
    def read(cls) -> Self:
        """Read the group from the environment; raise InvalidSettingError at the first bad value.

        Read again only when one of its variables has changed, so that hot paths may call it.
        """
        told = tuple(map(_environ.get, cls._names()))
        kept = _READ.get(cls)
        if kept is not None and kept[0] == told and isinstance(kept[1], cls):
            return kept[1]
        try:
            values = cls()
        except ValidationError as error:
            raise _refused(cls, error) from None
        _READ[cls] = (told, values)
        return values

    @classmethod
    def _names(cls) -> tuple[object, ...]:
        if "_env_names" not in cls.__dict__:
            names = (str(field.validation_alias) for field in cls.model_fields.values())
            cls._env_names = tuple(map(os.environ.encodekey, names))
        return cls._env_names


def _refused(group: type[Settings], error: ValidationError) -> InvalidSettingError:
    first = error.errors()[0]
    env = str(first["loc"][0])
    if env in group.model_fields:  # its default was refused, beside another setting's value
        env = str(group.model_fields[env].validation_alias)
    said = first["msg"].removeprefix("Value error, ")
    allowed = said[0].lower() + said[1:]
    for field in group.model_fields.values():
        if field.validation_alias == env:
            allowed = f"{allowed} ({field.description} Default {field.default!r} {_unit(field)})"
            if _is_secret(field):
                return InvalidSettingError(env, "…", allowed)
    return InvalidSettingError(env, str(first["input"]), allowed)


def _extra(field: Any) -> dict[str, Any]:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _unit(field: Any) -> str:
    return str(_extra(field).get("unit", ""))


def _is_secret(field: Any) -> bool:
    return bool(_extra(field).get("secret", False))


@dataclass(frozen=True, slots=True)
class Shown:
    """One line of `starforge settings`."""

    env: str
    value: str
    source: str
    default: str
    unit: str
    meaning: str
    allowed: str
    room: str


def shown_settings() -> list[Shown]:
    """List every setting of every group that was imported, with its value and where that came from."""
    lines: list[Shown] = []
    for group in sorted(GROUPS.values(), key=lambda group: (group.__module__, group.__name__)):
        values = group.read()
        for name, field in group.model_fields.items():
            env = str(field.validation_alias)
            from_environment = bool(os.environ.get(env))
            value = getattr(values, name)
            lines.append(
                Shown(
                    env=env,
                    value="(set)" if _is_secret(field) and value else str(value),
                    source="environment" if from_environment else "default",
                    default="" if _is_secret(field) else str(field.default),
                    unit=_unit(field),
                    meaning=field.description or "",
                    allowed=_allowed(field),
                    room=group.__module__.split(".")[1],
                )
            )
    return lines


def _allowed(field: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    ]
    return " and ".join(bounds)


def _default_home() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/starforge")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "starforge"


class HomeSettings(Settings):
    """Where StarForge keeps what is its own, and which tenant a process speaks for."""

    home: Path = setting(
        _default_home(),
        env="STARFORGE_HOME",
        unit="folder",
        meaning="Folder of the embedded database, the first API token and the logs.",
    )
    tenant: str = setting(
        "default",
        env="TENANT_ID",
        unit="name",
        meaning="Tenant that this process speaks for where nothing else says so.",
        min_length=1,
        max_length=64,
    )
    tenancy: str = setting(
        "single",
        env="STARFORGE_TENANCY",
        unit="mode",
        meaning="single: one tenant; enforced: row-level security must bind the process's role.",
        pattern="^(single|enforced)$",
    )
