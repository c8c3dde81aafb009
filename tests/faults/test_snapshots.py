"""Row 1 for the ETL: a worker is killed at every statement of a snapshot's way into its tables."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from starforge.db.pool import Connection, Pool
from starforge.etl.gears.limits import ProcessSettings
from starforge.etl.ingest.offers import Offer
from starforge.etl.ingest.receive import receive
from starforge.etl.load.process import InHand, process
from starforge.heroes.mapping import HERO
from tests.covers import covers
from tests.etl.load.test_process import MODES, NOT_COMPARED, TABLES
from tests.faults.scene import Scene, a_database, a_scene
from tests.faults.test_kills import KILLS_PER_WORKER, STEPS_MAX, TORTURED, Killer, Step, texts
from tests.postgres import TestServer
from tests.proxy import kill, nothing

CLEAN = "CLEAN"
ALONE = {"WORKER_CONCURRENCY": "1", "STARFORGE_BREAKER_MIN": "1000"}
"""One job at a time, and no breaker: half of the attempts are killed."""
SHARED = {"entity_seen"}
TRIES, HEROES = 1_000, 20
AT_ONCE = 4
EVERY = 1 if TORTURED else 3
"""Of so many steps a worker is killed at one."""

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def captures(name: str) -> list[bytes]:
    """Two states of one hero: things come, change and leave."""

    def capture(at_ms: int, **fields: Any) -> bytes:
        profile = {"NameCode": name, "GuildName": "g", **fields}
        return json.dumps({"result": {"ServerTime": at_ms, "ProfileData": profile}}).encode()

    pets = {"8021": {"Level": 3}, "8022": {"XP": 7, "Costume": 2}}
    return [
        capture(1_000, Troops={"1": {}, "2": {"Amount": 4}}, Pets=pets, GuildId=5, Teams=[{}, {"Name": "x"}]),
        capture(2_000, Troops={"2": {"Amount": 5}, "3": {}}, Pets={"8022": {}}, GuildId=6, Teams=[{}]),
    ]


async def rows_of(conn: Connection, name: str) -> dict[str, list[str]]:
    """Return what the tables say of a hero, in words that mean the same for every hero."""
    found = {}
    for table in set(TABLES) - {"guilds"}:
        mine = "subject = $1" if table in SHARED else "user_id = (SELECT id FROM users WHERE namecode = $1)"
        if table == "users":
            mine = "namecode = $1"
        rows = await conn.fetch(f"SELECT * FROM {table} WHERE {mine}", name)
        found[table] = sorted(
            str(
                {
                    key: value
                    for key, value in row.items()
                    if key not in NOT_COMPARED | {"namecode", "subject"}
                }
            )
            for row in rows
        )
    return found


@covers("O-16", "Q-67")
@pytest.mark.once("its statements are prepared on both versions by tests/db/test_statement.py")
@pytest.mark.parametrize("way", ["together", "apart"])
async def test_a_worker_killed_at_any_statement_of_a_snapshot_leaves_the_tables_of_a_clean_run(
    server: TestServer, tmp_path: Path, seed: int, way: str
) -> None:
    """No row twice, none regressed, none missing, and no attempt burnt. On each commit at a third of them."""
    met: set[Step] = set()
    async with a_scene(server, tmp_path) as scene:
        pool = await Pool.open(scene.database, size=1)
        try:
            async with scene.worker(**ALONE, **MODES[way]):
                await captured(scene, pool, CLEAN)
            expected = await rows_of(scene.conn, CLEAN)
            assert min(len(expected[table]) for table in ("user_troops", "user_pets", "user_teams")) > 0
            hero, fired = 0, True
            while fired:
                assert len(met) < STEPS_MAX
                async with scene.worker(**ALONE, **MODES[way]):
                    for _ in range(KILLS_PER_WORKER):
                        hero += 1
                        fired = await captured(scene, pool, f"H_{hero}", met, seed)
                        assert await rows_of(scene.conn, f"H_{hero}") == expected
                        if not fired:
                            break
        finally:
            await pool.close()
        assert await scene.conn.fetchval("SELECT count(*) FROM guilds") == 2
        left = "SELECT count(*) FROM hero_snapshots WHERE status <> 'processed' OR processing"
        assert await scene.conn.fetchval(left) == 0
        assert await scene.conn.fetchval("SELECT max(attempts) FROM job_history") == 0
    print(f"{len(met)} steps")
    steps = texts(met)
    for part in (
        "UPDATE hero_snapshots",
        "INSERT INTO entity_seen",
        'INTO "user_troops"',
        'UPDATE "user_pets"',
    ):
        assert part in steps
    assert ("INSERT INTO snapshot_entities" in steps) is (way == "apart")


@covers("F-38")
async def test_snapshots_of_one_user_that_are_processed_at_once_never_deadlock(
    server: TestServer, seed: int
) -> None:
    """A thousand times two states of one hero, in two processes that have several heroes in hand.

    Each is written in a transaction, alone or together with others, or in one for each entity.
    """
    dice, limits = random.Random(seed), ProcessSettings.read()
    ways = [limits.model_copy(update={"together_max_mb": most}) for most in (0.0, 64.0)]
    async with a_database(server) as database:
        pool, other = await Pool.open(database, size=4), await Pool.open(database, size=4)
        offers = [Offer("d", state) for hero in range(HEROES) for state in captures(f"D_{hero}")]
        receipts = await receive(pool, offers, mapping=HERO, tenant="default")
        stored = [
            InHand(
                one.snapshot_id,
                "default",
                one.size_bytes,
                NOON + timedelta(days=number % 2),
                offer.data,
                guarded=True,
                though_held=False,
            )
            for number, (one, offer) in enumerate(zip(receipts, offers, strict=True))
            if one.snapshot_id
        ]
        for _ in range(TRIES // AT_ONCE):
            pairs = [stored[2 * hero : 2 * hero + 2] for hero in dice.sample(range(HEROES), AT_ONCE)]
            work = [(where, one) for pair in pairs for where, one in zip((pool, other), pair, strict=True)]
            dice.shuffle(work)
            await asyncio.gather(*(process(where, HERO, one, dice.choice(ways)) for where, one in work))
        async with pool.connection() as conn:
            present = await conn.fetch(
                "SELECT array_agg(troop_id ORDER BY troop_id) AS troops, sum(amount) AS amount"
                " FROM user_troops WHERE last_seen IS NULL GROUP BY user_id"
            )
            deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            assert await conn.fetchval(deadlocks) == 0
        await pool.close()
        await other.close()
    assert len(present) == HEROES
    assert {(*row["troops"], row["amount"]) for row in present} == {(2, 3, 5)}, (
        "the later state won every time"
    )


async def captured(scene: Scene, pool: Pool, name: str, met: set[Step] | None = None, seed: int = 0) -> bool:
    """Have both states of a hero processed, with a kill on the way of each; tell whether any was killed."""
    fired = False
    for document in captures(name):
        killer = None
        if met is not None:
            scene.proxy.rule = killer = Killer(
                "starforge worker", kill, met, from_claim=True, every=EVERY, seed=seed
            )
        await receive(pool, [Offer(name, document)], mapping=HERO, tenant="default")
        await scene.drained()
        fired = fired or (killer is not None and killer.fired)
    scene.proxy.rule = nothing
    return fired
