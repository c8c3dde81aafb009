"""The partition of a backfill: its states and the moves between them."""

from __future__ import annotations

from starforge.machine import Machine

PARTITION = Machine.of(
    "partition",
    [
        # verb       from                        to
        ("plan", "", "pending"),
        ("start", "pending failed", "running"),
        ("complete", "running", "completed"),
        ("fail", "running", "failed"),
        ("return", "running", "pending"),
        ("cancel", "pending running failed", "cancelled"),
    ],
)
