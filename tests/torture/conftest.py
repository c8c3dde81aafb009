"""What the tortures share: how long they last, and the fault tests' scene."""

from __future__ import annotations

import os

import pytest

from tests.faults.conftest import scene, seed

__all__ = ["minutes", "scene", "seed"]

MINUTES_ENV = "STARFORGE_TORTURE_MINUTES"


@pytest.fixture
def minutes() -> float:
    """How long a torture lasts; STARFORGE_TORTURE_MINUTES shortens it."""
    return float(os.environ.get(MINUTES_ENV, "10"))
