"""The declarer: the part of an app that declares assets, and asks for backfills of them."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack, overload

from starforge.backfill.act.create_operations import change_of
from starforge.backfill.asset.asset import Asset, AssetOptions, Assets, asset
from starforge.backfill.create.ask import ask
from starforge.backfill.create.create import Created
from starforge.backfill.create.options import Options, document
from starforge.backfill.errors import BackfillOptionError
from starforge.backfill.scheme.scheme import Scheme
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.backfill.select.canary import share_of
from starforge.backfill.select.select import Request
from starforge.db.pool import Connection, set_tenant
from starforge.operation import Change
from starforge.queue.context import current_job
from starforge.settings import HomeSettings


class Wanted(TypedDict, total=False):
    """What `app.backfill(…)` takes beside the asset."""

    first: str | None
    """First partition; else the asset's first."""

    last: str | None
    """Last partition, included; else the last one that has ended."""

    keys: Iterable[str]
    """These partitions, instead of a range."""

    stale: bool
    """Only those that are missing, older than what they are made from, or of another version."""

    include_upstream: bool
    """Make what it is made from first."""

    max_depth: int | None
    """Levels of upstream to include."""

    canary: str | float | None
    """Share of the partitions that has to go well before the rest, as "5%" or 0.05."""

    concurrency: int | None
    """Partitions at once; else as the asset declares."""

    priority: int | None
    """Higher goes first."""

    sla: str | timedelta | datetime | None
    """When it has to be complete: "6h", a timedelta, or a time."""

    attempts: int | None
    """Failures after which a partition is given up."""

    failed_max: int | None
    """So many partitions may fail, and it is completed all the same."""

    override_preflight: bool
    """Create it whatever the preflight says; needs a reason."""

    reason: str
    """Why; kept in the audit log."""


class Declarer(ABC):
    """The part of an app that declares assets and asks for backfills of them."""

    name: str

    def __init__(self) -> None:
        self.assets = Assets()

    @overload
    def asset(  # type: ignore[overload-overlap] # a SnapshotRange is a Scheme, and the one that has no function
        self, name: str, *, partitions: SnapshotRange, **options: Unpack[AssetOptions]
    ) -> Asset: ...

    @overload
    def asset(
        self, name: str, *, partitions: Scheme, **options: Unpack[AssetOptions]
    ) -> Callable[[Callable[..., Any]], Asset]: ...

    def asset(self, name: str, *, partitions: Scheme, **options: Unpack[AssetOptions]) -> Any:
        """Register a function as what makes an asset's partitions, one per call.

        @app.asset("orders_by_day", partitions=Daily("2024-01-01"), upstream=["orders"])
        async def fill(day: Partition[Window], conn: Connection) -> None: ...

        A parameter called `ctx` gets the attempt's context, `conn` the connection whose transaction commits
        the partition; one marked with Depends is opened for it.

        An asset of a SnapshotRange has no function: the mapping of its source makes it, and is its version.

        app.asset("heroes_again", partitions=SnapshotRange("hero", every=Daily("2024-01-01")))

        Args:
            name: 1 to 100 letters, digits and `_ . / -`.
            partitions: Daily, Hourly, Monthly, Static, KeyRange or SnapshotRange.
            options: What `AssetOptions` holds: upstream, concurrency, timeout, retries, owner, validate,
                version.
        Raises: AssetDeclarationError; for what assets say of one another, when a worker starts.
            UnknownSourceError where snapshots of a source have no mapping.
        """
        if isinstance(partitions, SnapshotRange):
            handler, version = self._reprocessing(partitions.source)
            options = {"version": version, **options}
            return self.assets.add(asset(name, handler, partitions=partitions, **options))

        def register(handler: Callable[..., Any]) -> Asset:
            # Annotations may name what is local to whoever declares the handler.
            names = sys._getframe(1).f_locals
            return self.assets.add(asset(name, handler, partitions=partitions, names=names, **options))

        return register

    async def backfill(
        self, asset: str | Asset, *, tenant: str | None = None, **wanted: Unpack[Wanted]
    ) -> Created:
        """Create a backfill of an asset of this app; the answer has its id, and those of upstream ones.

        made = await app.backfill("orders_by_day", first="2024-01-01", last="2024-12-31", canary="5%")

        Args:
            asset: The asset, or its name.
            tenant: For whom; inside a job that job's, else this process's.
            wanted: What `Wanted` holds: which partitions, and how they are to run.
        Raises: UnknownAssetError, PartitionKeyError and what else `starforge.backfill.select.select` refuses;
            BackfillOptionError; OverlapError; PreflightError.
        """
        request, options = _asked_for(asset if isinstance(asset, str) else asset.name, wanted)
        inside = current_job()
        whose = tenant or (inside.tenant if inside else None) or HomeSettings.read().tenant
        reason = wanted.get("reason", "")
        async with self._connected(None) as conn, conn.transaction():
            await set_tenant(conn, whose)
            created, looked = await ask(
                conn,
                self.assets,
                request,
                options,
                tenant=whose,
                actor=f"app {self.name}",
                override=wanted.get("override_preflight", False),
                reason=reason,
            )
            change = change_of(created, looked)
            await self._record(conn, "backfill create", document(request, options), reason, whose, change)
        return created

    @abstractmethod
    def _reprocessing(self, source: str) -> tuple[Callable[..., Any], str]:
        """Return what processes a source's stored snapshots again, and the version of its mapping."""

    @abstractmethod
    def _connected(self, conn: Connection | None) -> AbstractAsyncContextManager[Connection]:
        """Lend a connection that the app keeps."""

    @abstractmethod
    async def _record(
        self,
        conn: Connection,
        operation: str,
        arguments: Mapping[str, Any],
        reason: str,
        tenant: str,
        change: Change,
    ) -> None:
        """Write down in the audit log what the app did, in the transaction that does it."""


def _asked_for(asset: str, wanted: Wanted) -> tuple[Request, Options]:
    """Return what is asked for. Raises: SelectionError, BackfillOptionError."""
    if unknown := sorted(set(wanted) - set(Wanted.__annotations__)):
        known = ", ".join(Wanted.__annotations__)
        raise BackfillOptionError(f"backfill of {asset}: there is no {', '.join(unknown)}; it takes {known}")
    canary, keys = wanted.get("canary"), wanted.get("keys", ())
    request = Request(
        asset=asset,
        first=wanted.get("first"),
        last=wanted.get("last"),
        keys=(keys,) if isinstance(keys, str) else tuple(keys),
        stale=wanted.get("stale", False),
        include_upstream=wanted.get("include_upstream", False),
        max_depth=wanted.get("max_depth"),
        canary=share_of(canary) if isinstance(canary, str) else canary,
    )
    options = Options(
        concurrency=wanted.get("concurrency"),
        priority=wanted.get("priority"),
        sla=wanted.get("sla"),
        attempts=wanted.get("attempts"),
        failed_max=wanted.get("failed_max"),
    )
    return request, options
