"""The rate of clients: a bucket of tokens for each, in this server's memory (FAULTS, ingest limits).

Several servers each give a client its rate: a limit across them all would cost every request a row.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from starforge.clock import monotonic_s
from starforge.web.errors import RateExceededError
from starforge.web.settings import IngestSettings

CLIENTS_MAX = 10_000
"""Buckets that are kept; beyond it those that are full are forgotten: a new one is full too."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Rates:
    """How much each client may offer still."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def take(self, tenant: str, client: str) -> dict[str, str]:
        """Take one token; return what is said of it in the answer's headers. Raises: RateExceededError."""
        limits = IngestSettings.read()
        bucket = self._filled(tenant, client, limits)
        if bucket.tokens < 1:
            raise RateExceededError(client, math.ceil((1 - bucket.tokens) / limits.rate_per_s))
        bucket.tokens -= 1
        return _fields(bucket, limits)

    async def paced(self, tenant: str, client: str) -> None:
        """Take one token, and wait until there is one: a batch that is under way is not cut short."""
        limits = IngestSettings.read()
        bucket = self._filled(tenant, client, limits)
        # Several may wait; each owes its own, so that together they keep to the rate.
        bucket.tokens -= 1
        if bucket.tokens < 0:
            await asyncio.sleep(-bucket.tokens / limits.rate_per_s)

    def fields(self, tenant: str, client: str) -> dict[str, str]:
        """Return what is said of a client's rate in the answer's headers."""
        limits = IngestSettings.read()
        return _fields(self._filled(tenant, client, limits), limits)

    def _filled(self, tenant: str, client: str, limits: IngestSettings) -> _Bucket:
        now_s = monotonic_s()
        bucket = self._buckets.get((tenant, client))
        if bucket is None:
            if len(self._buckets) >= CLIENTS_MAX:
                self._forget_full(now_s, limits)
            bucket = self._buckets[tenant, client] = _Bucket(limits.burst, now_s)
        bucket.tokens = min(limits.burst, bucket.tokens + (now_s - bucket.at_s) * limits.rate_per_s)
        bucket.at_s = now_s
        return bucket

    def _forget_full(self, now_s: float, limits: IngestSettings) -> None:
        for name, bucket in list(self._buckets.items()):
            if bucket.tokens + (now_s - bucket.at_s) * limits.rate_per_s >= limits.burst:
                del self._buckets[name]


def _fields(bucket: _Bucket, limits: IngestSettings) -> dict[str, str]:
    """Return the fields of draft-ietf-httpapi-ratelimit-headers: what there is, and when it is full again."""
    window_s = math.ceil(limits.burst / limits.rate_per_s)
    left = max(0, math.floor(bucket.tokens))
    full_s = math.ceil((limits.burst - bucket.tokens) / limits.rate_per_s)
    return {
        "RateLimit-Policy": f'"ingest";q={limits.burst};w={window_s}',
        "RateLimit": f'"ingest";r={left};t={full_s}',
    }
