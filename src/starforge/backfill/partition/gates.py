"""Gates before a backfill's partitions: what withholds them although the backfill itself may run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from starforge.backfill.partition.partition import QUEUE
from starforge.queue.gate import Gate


def before_partitions(gates: Iterable[Gate], job_type: str, tenant: str) -> Iterator[Gate]:
    """Yield those of the closed gates that partitions of this job type and tenant meet."""
    names = {("queue", QUEUE), ("type", job_type), ("tenant", tenant)}
    for gate in gates:
        # What retries wait for stops no first attempt.
        if (gate.scope, gate.name) in names and gate.cause != "retries":
            yield gate


def withheld(gate: Gate) -> str:
    """Say what a gate does to a backfill's partitions, by whom, why and until when."""
    few = "few of its partitions start" if gate.rate_per_s else "none of its partitions starts"
    return (
        f"{few}: {gate.scope} {gate.name!r} {gate.told} until {gate.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        f" by {gate.owner}: {gate.reason}"
    )
