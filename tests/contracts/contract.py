"""The runbooks' statements as data, with their placeholders filled in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CONTRACT = Path(__file__).parents[2].parent / "shared" / "contract"


def statements() -> list[dict[str, Any]]:
    """Return the entries of contract/sql.yaml; [] where ../shared is absent."""
    file = CONTRACT / "sql.yaml"
    if not file.exists():
        return []
    entries: list[dict[str, Any]] = yaml.safe_load(file.read_text("utf-8"))
    return entries


def filled(sql: str, values: Mapping[str, str]) -> str:
    """Put the caller's values where the runbook has placeholders; nothing else is touched."""
    for name in sorted(values, key=len, reverse=True):
        sql = sql.replace(f":{name}", values[name])
    return sql.strip()
