"""`@covers("D-12")` ties a test to the lines of the requirements ledger that it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., object])


def covers(*numbers: str) -> Callable[[Test], Test]:
    """Mark a test as covering these ledger numbers."""

    def mark(test: Test) -> Test:
        marked: Test = pytest.mark.covers(*numbers)(test)
        return marked

    return mark
