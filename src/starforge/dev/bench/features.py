"""The features that a benchmark can switch on, as data: what each sets on jobs, types, workers and tables.

What is built later becomes a few lines here, and is in `--features all` and `bench features` by that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starforge.clock import new_id
from starforge.db.pool import Connection
from starforge.dev.bench.marks import FEATURES_ENV
from starforge.errors import InvalidInputError
from starforge.queue.declare import Limit, Rate
from starforge.queue.job import Key

TENANTS = 4
PRIORITIES = 3
KEYS = 10
ROOM = 1000
"""Limits that are high enough never to hold a job back: what is measured is what they cost."""

RATE = 1_000_000

PAUSE_OTHERS = """
INSERT INTO gates (scope, name, cause, owner, reason, expires_at)
SELECT scope, 'other' || n, 'pause', 'bench', 'measuring', sf_now() + interval '1 day'
FROM generate_series(1, 50) AS n, unnest('{queue,type}'::text[]) AS scope
"""
"""What somebody else's pause costs everybody."""

Fields = Callable[[int], Mapping[str, Any]]


def _nothing(_number: int) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature, switched on."""

    name: str
    setting: str
    """What is set, in words; the figures show it."""

    job: Fields = _nothing
    """Fields of job number i."""

    type: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the job type."""

    limit: Mapping[str, Any] = field(default_factory=dict)
    """Parts of the job type's limit."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the workers."""

    tables: Sequence[str] = ()
    """Statements that are run on the migrated database."""

    flow: bool = False
    """It belongs to flow control: `bench features` prices it."""


ALWAYS = {
    "history": "every completed job is kept, in daily partitions",
    "rollups": "finished attempts are counted by minute, in the transactions that finish them",
    "leases": "30 s, renewed by the supervisor; every acknowledgement fenced by worker and epoch",
    "breaker": "a type of which half the attempts fail is held",
    "log capture": "what the children write is the workers' log, kept in the database",
    "crash attribution": "every start and end of a handler is marked for the supervisor",
    "row security": "the workers are bound by it, with --role engine",
}
"""What no setting switches off."""

FEATURES = (
    Feature("priorities", f"{PRIORITIES} priorities in turn", job=lambda n: {"priority": n % PRIORITIES}),
    Feature("tags", "two tags on every job", job=lambda n: {"tags": ("bench", f"part{n % 10}")}),
    Feature(
        "trace",
        "a traceparent on every job",
        job=lambda n: {"trace": f"00-{n + 1:032x}-{n + 1:016x}-01"},
    ),
    Feature(
        "keys",
        "a unique key of its own on every job",
        job=lambda _: {"unique": Key(str(new_id()))},
    ),
    Feature("results", "every job returns an object, which its history keeps"),
    Feature("middleware", "one that does nothing, around every attempt"),
    Feature("timeout", "60 s for every attempt, by its type", type={"timeout": 60.0}),
    Feature("limit_total", f"at most {ROOM} jobs of the type at once", limit={"total": ROOM}, flow=True),
    Feature(
        "limit_per_worker", f"at most {ROOM} at once on each worker", limit={"per_worker": ROOM}, flow=True
    ),
    Feature(
        "limit_per_key",
        f"{KEYS} limit keys in turn, at most {ROOM} at once of each",
        job=lambda n: {"limit_key": f"key{n % KEYS}"},
        limit={"per_key": ROOM, "key": "n"},
        flow=True,
    ),
    Feature(
        "rate",
        f"at most {RATE:,} starts per second, over all workers".replace(",", " "),
        type={"rate": Rate(per_s=RATE, burst=RATE)},
        flow=True,
    ),
    Feature(
        "tenants",
        f"jobs of {TENANTS} tenants in turn, served in turn",
        job=lambda n: {"tenant": f"tenant{n % TENANTS}"},
        flow=True,
    ),
    Feature(
        "pauses",
        "50 other queues and 50 other types are paused",
        tables=[
            PAUSE_OTHERS,
        ],
        flow=True,
    ),
)

BY_NAME = {feature.name: feature for feature in FEATURES}


def chosen(names: Sequence[str]) -> tuple[Feature, ...]:
    """Return the features of these names; `all` and `none` are what they say.

    Raises: InvalidInputError for a name that is no feature.
    """
    if "all" in names:
        return FEATURES
    wanted = [name for name in names if name != "none"]
    unknown = [name for name in wanted if name not in BY_NAME]
    if unknown:
        raise InvalidInputError(
            f"--features {unknown[0]}: use all, none, or some of {', '.join(sorted(BY_NAME))}"
        )
    return tuple(feature for feature in FEATURES if feature.name in wanted)


def shown(features: Sequence[Feature]) -> dict[str, str]:
    """Return every feature with its setting, as the figures list it."""
    wanted = {feature.name for feature in features}
    return {
        **ALWAYS,
        **{feature.name: feature.setting if feature.name in wanted else "off" for feature in FEATURES},
    }


def fields(features: Sequence[Feature], number: int) -> dict[str, Any]:
    """Return what the features set on job number `number`."""
    return {name: value for feature in features for name, value in feature.job(number).items()}


def environment(features: Sequence[Feature]) -> dict[str, str]:
    """Return what the features set on the workers, and their names for the app that declares the types."""
    return {
        FEATURES_ENV: json.dumps([feature.name for feature in features]),
        **{name: value for feature in features for name, value in feature.environment.items()},
    }


def on(name: str) -> bool:
    """Tell a worker of a benchmark whether a feature is switched on that only its app can switch."""
    return name in json.loads(os.environ.get(FEATURES_ENV, "[]"))


def declared() -> dict[str, Any]:
    """Return the keywords of the job type in a worker of a benchmark."""
    features = [BY_NAME[name] for name in json.loads(os.environ.get(FEATURES_ENV, "[]"))]
    keywords = {keyword: value for feature in features for keyword, value in feature.type.items()}
    limit = {part: value for feature in features for part, value in feature.limit.items()}
    return {**keywords, "limit": Limit(**limit)} if limit else keywords


async def prepare(features: Sequence[Feature], admin: Connection) -> None:
    """Write into the benchmark's database what the features need there."""
    for feature in features:
        for statement in feature.tables:
            await admin.execute(statement)
