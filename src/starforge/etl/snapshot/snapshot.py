"""Snapshot: the states that a stored document goes through, and the types of the jobs that process it."""

from __future__ import annotations

from starforge.machine import Machine
from starforge.queue.handler import HIGH_MEMORY_SUFFIX

SNAPSHOT = Machine.of(
    "snapshot",
    [
        # verb        from                              to
        ("receive", "", "received"),
        ("hold", "", "quarantined"),  # above the size guard at the door
        ("process", "received failed quarantined", "processed"),  # held: on a high-memory worker
        ("supersede", "received failed quarantined", "superseded"),
        ("fail", "received processed superseded", "failed"),  # also a later delivery of its job
        ("quarantine", "received failed", "quarantined"),
        ("release", "quarantined", "received"),
        ("recapture", "received processed superseded failed", "received"),
        ("retry", "failed", "received"),  # its content was offered again, or somebody asked for it
    ],
)

JOB_TYPE = "process_snapshot"
HIGHMEM_TYPE = f"{JOB_TYPE}{HIGH_MEMORY_SUFFIX}"


def held_back(snapshot_id: object) -> str:
    """Begin what a job says that ends because its snapshot is held; by it the job is known on release."""
    return f"snapshot {snapshot_id} is quarantined"
