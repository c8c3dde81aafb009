"""The queue's operations: each is declared in the module of its noun; here they are found together."""

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
