"""What the fault tests share: a scene, and a seed that is printed and can be given."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from starforge.clock import SEED_ENV
from tests.faults.scene import Scene, a_scene
from tests.postgres import TestServer


@pytest.fixture
def seed(monkeypatch: pytest.MonkeyPatch) -> int:
    """The seed of all that a test leaves to chance, its workers included; STARFORGE_SEED replays it."""
    given = os.environ.get(SEED_ENV, "")
    chosen = int(given) if given.isdigit() else random.SystemRandom().randrange(2**32)
    print(f"replay with {SEED_ENV}={chosen}")
    monkeypatch.setenv(SEED_ENV, str(chosen))
    return chosen


@pytest.fixture
async def scene(server: TestServer, tmp_path: Path, seed: int) -> AsyncIterator[Scene]:
    """A scene of the test's own."""
    async with a_scene(server, tmp_path) as made:
        yield made
