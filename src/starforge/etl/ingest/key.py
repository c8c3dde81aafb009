"""The idempotency key of an offer: an answer that was lost is had again, and nothing is done twice (G10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starforge.db.pool import Connection
from starforge.db.statement import sql
from starforge.etl.errors import IngestKeyReusedError
from starforge.etl.ingest.receipt import Receipt, kept, receipt_of
from starforge.settings import Settings, setting

PRUNE_BATCH = 5000


class IngestKeySettings(Settings):
    """How long the answer to an idempotency key is kept."""

    hours: float = setting(
        24.0,
        env="STARFORGE_INGEST_KEY_HOURS",
        unit="hours",
        meaning="How long an Idempotency-Key of ingestion is known; after that it counts as new.",
        gt=0,
        le=24 * 366,
    )


@dataclass(frozen=True, slots=True)
class IngestKey:
    """A key that a client gave to an offer, and a digest of everything that it offered with it."""

    client: str
    key: str
    fingerprint: bytes


class KeyContestedError(Exception):
    """Somebody else used one of these keys while this transaction ran; the next look finds their answer."""


async def known(
    conn: Connection, tenant: str, keys: Sequence[IngestKey]
) -> dict[tuple[str, str], Receipt | IngestKeyReusedError]:
    """Return what was answered to those of the keys that were used, by client and key."""
    rows = await conn.fetch(
        sql("etl", "keys_known"), tenant, [key.client for key in keys], [key.key for key in keys]
    )
    fingerprints = {(key.client, key.key): key.fingerprint for key in keys}
    found: dict[tuple[str, str], Receipt | IngestKeyReusedError] = {}
    for row in rows:
        name = (row["client"], row["key"])
        same = fingerprints[name] == row["fingerprint"]
        found[name] = receipt_of(row["answer"]) if same else IngestKeyReusedError(row["key"])
    return found


async def keep(conn: Connection, tenant: str, answered: Sequence[tuple[IngestKey, Receipt]]) -> None:
    """Keep the answers in the transaction that they are about; raise KeyContestedError."""
    rows = await conn.fetch(
        sql("etl", "keys_keep"),
        tenant,
        [key.client for key, _ in answered],
        [key.key for key, _ in answered],
        [key.fingerprint for key, _ in answered],
        [kept(receipt) for _, receipt in answered],
        IngestKeySettings.read().hours,
    )
    if len(rows) < len(answered):
        raise KeyContestedError


async def prune_ingest_keys(conn: Connection) -> int:
    """Forget a batch of keys that hold no more; fewer than PRUNE_BATCH means that there are no more."""
    return int((await conn.execute(sql("etl", "keys_prune"), PRUNE_BATCH)).rpartition(" ")[2])
