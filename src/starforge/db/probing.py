"""Planning by probes: what a session is told so that its statements probe indexes and nothing else."""

from __future__ import annotations

PROBING = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""Set where statements are to probe indexes and nothing else, whatever the statistics say.

Those of a queue are often wrong: taken while it was empty, they hold when a million jobs have come.
"""


def plan_by_probes(*, local: bool = False) -> str:
    """Return the statement that has PROBING obeyed from now on; `local`: until the open transaction's end."""
    scope = "LOCAL" if local else "SESSION"
    return "; ".join(f"SET {scope} {name} = {value}" for name, value in PROBING.items())


def plan_as_ever() -> str:
    """Return the statement that has the session's statements planned as the server is set."""
    return "; ".join(f"RESET {name}" for name in PROBING)
