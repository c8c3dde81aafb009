"""The backfill: its states and the moves between them.

The database refuses every other move by a trigger over `backfill_moves`; a test holds that table and the
rows below against each other.
"""

from __future__ import annotations

from starforge.machine import Machine

BACKFILL = Machine.of(
    "backfill",
    [
        # verb       from                                to
        ("request", "", "pending"),
        ("claim", "pending resuming", "running"),
        ("pause", "pending running resuming", "paused"),  # D-04
        ("resume", "paused", "resuming"),
        ("reclaim", "running", "running"),
        ("finish", "running", "completed"),
        ("fail", "running", "failed"),
        ("cancel", "pending running paused resuming", "cancelled"),  # D-03
    ],
)
