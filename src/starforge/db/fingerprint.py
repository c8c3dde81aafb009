"""The fingerprint of an error: what failures of one cause share, however their values differ."""

from __future__ import annotations

import hashlib
import re
import traceback
from pathlib import Path

import asyncpg

from starforge.errors import told

_VARIABLE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"")


def fingerprint(error: BaseException, kind: str = "") -> str:
    """Return what like failures share: kind, class, place in the code, message without its variable parts.

    An error of Postgres is known by its SQLSTATE and the table, column or constraint that it names; its
    detail holds values of the row.
    """
    place = place_of(error)
    said = told(error)
    if isinstance(error, asyncpg.PostgresError):
        names = ("sqlstate", "schema_name", "table_name", "column_name", "constraint_name")
        place = "|".join(str(getattr(error, name, None)) for name in names)
        said = error.message or said
    # The path of a mapping error tells failures apart by field; its ids do not.
    said = _VARIABLE.sub("#", said)
    return hashlib.sha256(
        f"{kind}|{type(error).__name__}|{place}|{said}".encode(errors="replace")
    ).hexdigest()[:16]


def place_of(error: BaseException) -> str:
    """Return where in the code an error arose, without the line: that is another with every release."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""
