"""The queue's operations, each declared once; `ops/perform.py` runs them for every door."""

from __future__ import annotations

from starforge.queue import (
    breaker_operations,
    gate_operations,
    job_operations,
    override_operations,
    schedule_operations,
)

__all__ = [
    "breaker_operations",
    "gate_operations",
    "job_operations",
    "override_operations",
    "schedule_operations",
]
