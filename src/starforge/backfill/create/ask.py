"""Ask: a request is looked at before it is carried out; both, or only the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starforge.backfill.asset.asset import Assets
from starforge.backfill.create.choose import choose
from starforge.backfill.create.create import Created, create_chosen
from starforge.backfill.create.facts import DatabaseFacts
from starforge.backfill.create.options import Options
from starforge.backfill.create.preflight import Finding, Preflight, preflight
from starforge.backfill.errors import BackfillOptionError, OverlapError, PreflightError
from starforge.backfill.select.select import Request
from starforge.backfill.select.selection import Selection
from starforge.db.pool import Connection
from starforge.errors import InvalidInputError, StarForgeError


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a request would come to: nothing was written."""

    selection: Selection | None
    """None where the request itself is refused."""

    concurrency: dict[str, int]
    """By asset."""

    looked: Preflight | None
    errors: tuple[StarForgeError, ...]
    """Why the request itself is refused, every reason that can be told."""

    def refused(self, *, override: bool = False) -> bool:
        """Tell whether it would be refused."""
        refusing = (found for found in self.findings if found.refuses)
        return bool(self.errors) or any(found.check == "overlap" or not override for found in refusing)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return () if self.looked is None else self.looked.findings

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        parts = []
        for part in () if self.selection is None else self.selection.parts:
            name = part.asset.name
            estimate = None if self.looked is None else self.looked.estimates.get(name)
            cost = None
            if estimate is not None:
                cost = {"low_s": estimate.low_s, "high_s": estimate.high_s, "partitions_seen": estimate.seen}
            parts.append({**part.document(), "concurrency": self.concurrency[name], "duration": cost})
        return {
            "partitions": 0 if self.selection is None else self.selection.total,
            "parts": parts,
            "notes": [] if self.selection is None else list(self.selection.notes),
            "errors": [error.document() for error in self.errors],
            "findings": [found.document() for found in self.findings],
            "refused": self.refused(),
        }


async def ask(
    conn: Connection,
    assets: Assets,
    request: Request,
    options: Options,
    *,
    tenant: str,
    actor: str,
    override: bool = False,
    reason: str = "",
) -> tuple[Created, Preflight]:
    """Create what is asked for, where nothing speaks against it or that is overridden with a reason.

    Called in a transaction that is taken back where it raises.
    Raises: what `create` raises; PreflightError; BackfillOptionError for an override without a reason.
    """
    if override and not reason.strip():
        raise BackfillOptionError("--override-preflight needs a --reason: it is kept in the audit log")
    facts = DatabaseFacts(conn, registering=True)
    selection = await choose(conn, assets, request, facts, tenant=tenant)
    looked = await preflight(conn, assets, selection, options, tenant=tenant)
    for found in looked.findings:
        if found.check == "overlap":
            raise OverlapError(found.text)
    if looked.refusing and not override:
        raise PreflightError(
            "; ".join(f"{found.check}: asset {found.asset}: {found.text}" for found in looked.refusing)
        )
    return await create_chosen(conn, selection, request, options, tenant=tenant, actor=actor), looked


async def rehearse(
    conn: Connection, assets: Assets, request: Request, options: Options, *, tenant: str
) -> Rehearsal:
    """Tell what `ask` would do, with all that speaks against it; nothing is written."""
    facts = DatabaseFacts(conn, registering=False)
    errors: list[StarForgeError] = []
    try:
        options.sla_at(await facts.now())
    except InvalidInputError as error:
        errors.append(error)
        options = Options(concurrency=options.concurrency)
    try:
        selection = await choose(conn, assets, request, facts, tenant=tenant)
    except StarForgeError as error:
        errors += await _each(conn, assets, request, error, tenant)
        return Rehearsal(None, {}, None, tuple(errors))
    looked = await preflight(conn, assets, selection, options, tenant=tenant)
    concurrency = {part.asset.name: options.concurrency or part.asset.slots for part in selection.parts}
    return Rehearsal(selection, concurrency, looked, tuple(errors))


async def _each(
    conn: Connection, assets: Assets, request: Request, error: StarForgeError, tenant: str
) -> list[StarForgeError]:
    """Return every reason against a request: that of each key, and that of both ends of a range."""
    if request.asset not in assets.names():
        return [error]
    facts = DatabaseFacts(conn, registering=False)
    alone = [key for key in (*request.keys, request.first, request.last) if key is not None]
    found = {str(error): error}
    for key in alone if len(alone) > 1 else ():
        try:
            await choose(conn, assets, Request(asset=request.asset, keys=(key,)), facts, tenant=tenant)
        except StarForgeError as other:
            found.setdefault(str(other), other)
    return list(found.values())
