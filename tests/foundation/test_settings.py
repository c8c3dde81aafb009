"""Settings: every one is named, bounded and explained; a bad one stops the start; a secret stays one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from starforge import settings
from starforge.db.pool import PoolSettings
from starforge.errors import InvalidSettingError
from starforge.settings import GROUPS, HomeSettings, Settings, setting, shown_settings
from starforge.worker.registry import WorkerSettings
from tests.covers import covers
from tests.foundation.package import modules

BEYOND = {"ge": -1, "gt": 0, "le": 1, "lt": 0}
"""Bound → the step from it to a number that it refuses."""


def _fields() -> list[tuple[type[Settings], FieldInfo]]:
    modules()
    groups = [group for group in GROUPS.values() if group.__module__.startswith("starforge.")]
    return [(group, field) for group in groups for field in group.model_fields.values()]


def _extra(field: FieldInfo) -> dict[str, Any]:
    assert isinstance(field.json_schema_extra, dict)
    return dict(field.json_schema_extra)


@pytest.fixture
def declared() -> Iterator[None]:
    """Take the groups away again that a test declares."""
    before = dict(GROUPS)
    yield
    GROUPS.clear()
    GROUPS.update(before)


@covers("X-16")
def test_every_setting_of_every_room_has_a_name_a_unit_and_a_meaning() -> None:
    assert len(_fields()) > 20
    for group, field in _fields():
        env = str(field.validation_alias)
        where = f"{group.__module__}: {env}"
        assert env.isupper(), where
        assert str(_extra(field)["unit"]).strip(), where
        assert (field.description or "").endswith("."), f"{where}: a meaning is a sentence"


def test_no_two_settings_share_a_variable() -> None:
    names = [str(field.validation_alias) for _, field in _fields()]
    assert sorted(names) == sorted(set(names))


@covers("O-28", "Q-53")
def test_the_variables_that_the_runbooks_name_keep_their_names() -> None:
    names = {str(field.validation_alias) for _, field in _fields()}
    assert {"DATABASE_URL", "WORKER_CONCURRENCY", "PG_POOL_MAX", "TENANT_ID", "METRICS_PORT"} <= names


@pytest.mark.parametrize(
    ("group", "env", "value", "allowed"),
    [
        (PoolSettings, "PG_POOL_MAX", "1", "greater than or equal to 2"),
        (PoolSettings, "PG_POOL_MAX", "many", "a valid integer"),
        (WorkerSettings, "WORKER_CONCURRENCY", "0", "greater than or equal to 1"),
        (WorkerSettings, "METRICS_PORT", "70000", "less than or equal to 65535"),
        (HomeSettings, "STARFORGE_TENANCY", "maybe", "single: one tenant; enforced:"),
        (HomeSettings, "TENANT_ID", "t" * 65, "at most 64 characters"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_itself_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, group: type[Settings], env: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(env, value)
    with pytest.raises(InvalidSettingError) as refused:
        group.read()
    told = str(refused.value)
    assert told.startswith(f"{env}={value!r} is not allowed: ")
    assert allowed in told
    assert refused.value.exit_code == 2
    assert "\n" not in told


@covers("X-16")
def test_every_bound_that_a_setting_states_is_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0
    for group, field in _fields():
        for rule in field.metadata:
            for name, step in BEYOND.items():
                bound = getattr(rule, name, None)
                if bound is None:
                    continue
                env, value = str(field.validation_alias), str(bound + step)
                monkeypatch.setenv(env, value)
                with pytest.raises(InvalidSettingError, match=f"{env}='{value}' is not allowed"):
                    group.read()
                monkeypatch.delenv(env)
                tried += 1
    assert tried > 20


def test_a_refused_value_is_forgotten_once_it_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_POOL_MAX", "1")
    with pytest.raises(InvalidSettingError):
        PoolSettings.read()
    monkeypatch.setenv("PG_POOL_MAX", "3")
    assert PoolSettings.read().pool_max == 3


def test_a_group_is_read_again_only_when_one_of_its_variables_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = PoolSettings.read()
    monkeypatch.setenv("WORKER_CONCURRENCY", "3")
    assert PoolSettings.read() is first
    monkeypatch.setenv("PG_POOL_MAX", "17")
    second = PoolSettings.read()
    assert (second.pool_max, PoolSettings.read() is second) == (17, True)
    monkeypatch.delenv("PG_POOL_MAX")
    assert PoolSettings.read() == first


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_CONCURRENCY", "")
    assert WorkerSettings.read().concurrency == 8


def test_a_variable_in_another_case_is_another_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a value wins that neither the list of settings nor the check for changes knows of."""
    monkeypatch.setenv("pg_pool_max", "17")
    monkeypatch.setattr(settings, "_READ", {})
    assert PoolSettings.read().pool_max == 8


@covers("X-16")
def test_the_list_says_where_each_value_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_POOL_MAX", "5")
    monkeypatch.delenv("WORKER_CONCURRENCY", raising=False)
    lines = {line.env: line for line in shown_settings()}
    pool = lines["PG_POOL_MAX"]
    assert (pool.value, pool.source, pool.default, pool.unit) == ("5", "environment", "8", "connections")
    assert (pool.allowed, pool.room) == (">= 2 and <= 200", "db")
    assert lines["WORKER_CONCURRENCY"].source == "default"


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:hunter2@db.example/shop")
    lines = {line.env: line for line in shown_settings()}
    assert lines["DATABASE_URL"].value == "(set)"
    assert "hunter2" not in repr(lines)
    monkeypatch.delenv("DATABASE_URL")
    assert {line.env: line for line in shown_settings()}["DATABASE_URL"].value == ""


@pytest.mark.usefixtures("declared")
def test_a_secret_that_is_refused_is_not_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    class Vault(Settings):
        token: str = setting("", env="VAULT_TOKEN", unit="text", meaning="A key.", secret=True, max_length=4)

    monkeypatch.setenv("VAULT_TOKEN", "hunter2")
    with pytest.raises(InvalidSettingError) as refused:
        Vault.read()
    assert "hunter2" not in f"{refused.value} {refused.value.document()} {refused.value.__dict__}"
    assert refused.value.__suppress_context__, "a traceback would print the value after all"
    assert "VAULT_TOKEN='…' is not allowed" in str(refused.value)


@pytest.mark.usefixtures("declared")
def test_a_group_is_listed_as_soon_as_a_room_declares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lamp(Settings):
        level: int = setting(3, env="LAMP_LEVEL", unit="lumen", meaning="How bright.", gt=0, lt=9)

    monkeypatch.setenv("LAMP_LEVEL", "8")
    line = {line.env: line for line in shown_settings()}["LAMP_LEVEL"]
    assert (line.value, line.default, line.allowed) == ("8", "3", "> 0 and < 9")


def test_the_home_is_the_systems_for_root_and_ones_own_for_everyone_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    homes = {}
    for uid in (0, 1000):
        monkeypatch.setattr("os.geteuid", lambda uid=uid: uid)
        monkeypatch.setenv("XDG_DATA_HOME", "/data")
        homes[uid] = str(settings._default_home())
    assert homes == {0: "/var/lib/starforge", 1000: "/data/starforge"}
