"""From what a request asks for to the list of partitions that a backfill is frozen with, or to a refusal.

The rules:
  - `--from` and `--to` are keys and both are included; without the one it begins with the asset's first
    partition, without the other it ends with the last;
  - a partition of time can be backfilled once its window has ended, by the database's clock; one of a
    table's keys where the table holds keys now;
  - partitions run in the order of their ordinals, upstream assets first, each asset in a part of its own;
  - an upstream's partitions are those that the chosen ones are made from. Where some of them do not exist,
    as before the upstream's start, the rest is taken and a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import quote
from typing import Protocol

from starforge.backfill.asset.asset import Asset, Assets
from starforge.backfill.errors import (
    BackwardRangeError,
    NothingSelectedError,
    OutsidePartitionsError,
    PartitionKeyError,
    SelectionError,
    TooManyPartitionsError,
    UpstreamDepthError,
)
from starforge.backfill.scheme.keyed import KeyRange, Static
from starforge.backfill.scheme.scheme import Span, clipped, merged
from starforge.backfill.scheme.window import TimeScheme
from starforge.backfill.select.canary import check_share
from starforge.backfill.select.selection import Listing, Part, Selection, counted
from starforge.errors import InvalidInputError
from starforge.settings import Settings, setting


class SelectSettings(Settings):
    """How much one backfill may take in."""

    partitions_max: int = setting(
        500_000,
        env="STARFORGE_BACKFILL_PARTITIONS_MAX",
        unit="partitions",
        meaning="Most partitions that one backfill may have, those of included upstream assets among them.",
        ge=1,
        le=1_000_000,
    )
    upstream_depth_max: int = setting(
        10,
        env="STARFORGE_BACKFILL_UPSTREAM_DEPTH_MAX",
        unit="levels",
        meaning="How far up --include-upstream follows by itself; further only with --max-depth.",
        ge=1,
        le=1000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody asks for. Raises: SelectionError where it contradicts itself."""

    asset: str
    first: str | None = None
    """--from"""

    last: str | None = None
    """--to"""

    keys: tuple[str, ...] = ()
    stale: bool = False
    """Only those that are stale: see choose.py."""

    include_upstream: bool = False
    max_depth: int | None = None
    """Levels of upstream to include; those above are left as they are."""

    canary: float | None = None
    """Share of the partitions that run first, above 0 and below 1."""

    def __post_init__(self) -> None:
        if self.keys and (self.first is not None or self.last is not None):
            raise SelectionError(
                "--keys names the partitions one by one: leave --from and --to out, or --keys"
            )
        if self.stale and (self.keys or self.include_upstream):
            raise SelectionError(
                "--stale finds the partitions of one asset by itself: leave --keys and --include-upstream out"
            )
        if self.max_depth is not None and not self.include_upstream:
            raise SelectionError("--max-depth says how much of --include-upstream: give both or neither")
        if self.max_depth is not None and self.max_depth < 1:
            raise SelectionError(f"--max-depth {self.max_depth}: it is 1 or more")
        if self.canary is not None:
            check_share(self.canary, self.canary)


class Facts(Protocol):
    """What a selection has to know of the database; whoever creates backfills answers."""

    async def now(self) -> datetime:
        """Return the database's time."""
        ...

    async def keys(self, scheme: KeyRange) -> tuple[int, int] | None:
        """Return the lowest and the highest key that a table holds; None of an empty one."""
        ...

    async def ordinals(self, asset: str, names: Sequence[str]) -> Mapping[str, int]:
        """Return the ordinal of each of these names of an asset.

        A name that has none gets the next one, in the order given; one that was given is never given again,
        also where its name is declared no more.
        """
        ...


async def select(assets: Assets, request: Request, facts: Facts) -> Selection:
    """Return the partitions that a request asks for.

    Raises: UnknownAssetError, PartitionKeyError, BackwardRangeError, OutsidePartitionsError,
        NothingSelectedError, TooManyPartitionsError, UpstreamDepthError; AssetDeclarationError where assets
        do not fit one another.
    """
    assets.bind()
    asset, now = assets.get(request.asset), await facts.now()
    reach = await _reach(asset, facts, now)
    if reach[0] >= reach[1]:
        raise NothingSelectedError(_nothing(asset, now))
    wanted = {asset.name: _chosen(asset, request, reach, now)}
    _check_total(asset, wanted[asset.name], reach)
    notes: list[str] = []
    parts: list[Part] = []
    levels = _levels(assets, asset, request, notes)
    for name, level in levels.items():
        each, there = assets.get(name), wanted.get(name, [])
        if each is not asset:
            there = clipped(there, await _reach(each, facts, now))
            _note_missing(notes, each, wanted.get(name, []), there, asset)
        if not there:
            continue
        parts.insert(0, Part(each, tuple(there), share=request.canary, level=level))
        for edge in each.upstream:
            if edge.name in levels:
                inputs = assets.inputs(each, edge, there)
                wanted[edge.name] = merged([*wanted.get(edge.name, []), *inputs])
    _check_sum(asset, parts)
    return Selection(tuple([await _registered(part, facts) for part in parts]), tuple(notes))


def check_frozen(asset: Asset, listed: Listing) -> None:
    """Check a list that was chosen one by one: that it is not too long, and the asset still has its keys.

    Raises: TooManyPartitionsError, PartitionKeyError.
    """
    most, scheme = SelectSettings.read().partitions_max, asset.partitions
    if len(listed) > most:
        raise TooManyPartitionsError(
            f"asset {asset.name}: {counted(len(listed))} are asked for and one backfill may have {most}"
        )
    for key, ordinal in listed:
        if scheme.ordinal(key) not in (ordinal, None):
            raise PartitionKeyError(
                key, f"is another partition of asset {asset.name} than it was: it is declared otherwise now"
            )


async def _registered(part: Part, facts: Facts) -> Part:
    if not part.asset.partitions.registers:
        return part
    scheme = part.asset.partitions
    # All names, not only the chosen ones: they get their ordinals in the order in which they are declared.
    names = scheme.names if isinstance(scheme, Static) else [key for key, _ in scheme.listed(part.spans)]
    ordinals = await facts.ordinals(part.asset.name, names)
    return Part(part.asset, part.spans, ordinals, part.share, part.level)


async def _reach(asset: Asset, facts: Facts, now: datetime) -> Span:
    scheme = asset.partitions
    if isinstance(scheme, TimeScheme):
        return scheme.reach(now)
    if isinstance(scheme, KeyRange):
        held = await facts.keys(scheme)
        return (0, 0) if held is None else scheme.reach(*held)
    if isinstance(scheme, Static):
        return scheme.reach()
    raise InvalidInputError(f"asset {asset.name}: {type(scheme).__name__} is no scheme that backfills know")


def command(asset: Asset, first: str, last: str) -> str:
    """Return the command that creates a backfill of a range, as a shell takes it."""
    ends = (("--from", first), ("--to", last))
    options = (f"{name}{'=' if key.startswith('-') else ' '}{quote(key)}" for name, key in ends)
    return f"`starforge backfill create {asset.name} {' '.join(options)}`"


def _nothing(asset: Asset, now: datetime) -> str:
    scheme = asset.partitions
    if isinstance(scheme, TimeScheme):
        ends = scheme.start_of(scheme.first + 1)
        return (
            f"asset {asset.name} has no partition yet: its first one, {scheme.label(scheme.first)}, ends at"
            f" {ends:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M}"
        )
    return f"asset {asset.name} has no partitions: there are no rows in {scheme.told()}"


def _chosen(asset: Asset, request: Request, reach: Span, now: datetime) -> list[Span]:
    scheme = asset.partitions
    try:
        if request.keys:
            spans = [(key, key, scheme.span(key, key)) for key in request.keys]
        else:
            first = scheme.first_key([reach]) if request.first is None else request.first
            last = scheme.last_key([reach]) if request.last is None else request.last
            spans = [(first, last, scheme.span(first, last))]
    except PartitionKeyError as error:
        example = command(asset, scheme.first_key([reach]), scheme.last_key([reach]))
        raise PartitionKeyError(
            error.key, f"{error.reason} (asset {asset.name}; such as {example})"
        ) from None
    for first, last, span in spans:
        # What lies outside comes first: a start in the future, without an end, also ends before it starts.
        if request.first is not None or request.keys:
            _check_inside(asset, scheme.span(first, first), first, reach, now)
        if request.last is not None:
            _check_inside(asset, scheme.span(last, last), last, reach, now)
        if span[0] >= span[1]:
            raise BackwardRangeError(
                f"the range ends at {last}, before it starts at {first}: {command(asset, last, first)}"
            )
    return merged(span for _, _, span in spans)


def _check_inside(asset: Asset, span: Span, key: str, reach: Span, now: datetime) -> None:
    if reach[0] <= span[0] and span[1] <= reach[1]:
        return
    scheme = asset.partitions
    first, last = scheme.first_key([reach]), scheme.last_key([reach])
    if span[0] < reach[0]:
        wrong = f"{key} is before the first partition of asset {asset.name}, {first}"
    elif isinstance(scheme, TimeScheme) and (scheme.last is None or span[0] <= scheme.last):
        ends = scheme.start_of(span[0] + 1)
        wrong = (
            f"{key} of asset {asset.name} has not ended: it ends at {ends:%Y-%m-%d %H:%M} UTC, it is"
            f" {now:%Y-%m-%d %H:%M}, and a partition can be backfilled once its window has ended; the last"
            f" that has is {last}"
        )
    else:
        wrong = f"{key} is beyond the last partition of asset {asset.name}, {last}"
    raise OutsidePartitionsError(f"{wrong}: {command(asset, first, last)}")


def _check_total(asset: Asset, spans: list[Span], reach: Span) -> None:
    scheme, most = asset.partitions, SelectSettings.read().partitions_max
    total = sum(map(scheme.count, spans))
    if total <= most:
        return
    wider = f", or declare wider ones (rows={scheme.rows})" if isinstance(scheme, KeyRange) else ""
    fits = [scheme.head(spans[0], most)]
    raise TooManyPartitionsError(
        f"asset {asset.name}: {counted(total)} are asked for and one backfill may have {most}: the first of"
        f" several may be {command(asset, scheme.first_key(fits), scheme.last_key(fits))}{wider}"
    )


def _check_sum(asset: Asset, parts: list[Part]) -> None:
    most, total = SelectSettings.read().partitions_max, sum(part.total for part in parts)
    if total > most:
        each = ", ".join(f"{part.total} of {part.asset.name}" for part in parts)
        raise TooManyPartitionsError(
            f"asset {asset.name} with its upstream: {counted(total)} are asked for ({each}) and one backfill"
            f" may have {most}: choose fewer, or one asset after the other, beginning with"
            f" {command(parts[0].asset, parts[0].first_key, parts[0].last_key)}"
        )


def _levels(assets: Assets, asset: Asset, request: Request, notes: list[str]) -> dict[str, int]:
    """Return the assets to take in with their levels, each before all of its upstream."""
    if not request.include_upstream:
        return {asset.name: 0}
    level, found = [asset.name], {asset.name: 0}
    while level:
        above = {edge.name: None for name in level for edge in assets.get(name).upstream}
        level = [name for name in above if name not in found]
        found.update(dict.fromkeys(level, found[next(reversed(found))] + 1))
    deepest, most = max(found.values()), request.max_depth
    if most is None and deepest > SelectSettings.read().upstream_depth_max:
        most = SelectSettings.read().upstream_depth_max
        raise UpstreamDepthError(
            f"the upstream of asset {asset.name} is {deepest} levels deep, and {most} are followed without"
            f" being told: `starforge backfill create {asset.name} --include-upstream --max-depth {deepest}`"
            f" takes in all of it, --max-depth {most} leaves what is above as it is"
        )
    if most is not None and (left := [name for name, depth in found.items() if depth > most]):
        notes.append(f"left as it is, above level {most}: {', '.join(left)}")
        found = {name: depth for name, depth in found.items() if depth <= most}
    return {name: found[name] for name in _below_first(assets, asset.name, found)}


def _below_first(assets: Assets, asset: str, found: Mapping[str, int]) -> list[str]:
    """Return the found assets so that each comes before all of its upstream."""
    waiting = dict.fromkeys(found, 0)
    for name in found:
        for edge in assets.get(name).upstream:
            if edge.name in waiting:
                waiting[edge.name] += 1
    order = [asset]
    for name in order:
        for edge in assets.get(name).upstream:
            if edge.name in waiting:
                waiting[edge.name] -= 1
                if waiting[edge.name] == 0:
                    order.append(edge.name)
    return order


def _note_missing(
    notes: list[str], above: Asset, wanted: list[Span], there: list[Span], asset: Asset
) -> None:
    scheme = above.partitions
    missing = sum(map(scheme.count, wanted)) - sum(map(scheme.count, there))
    if missing > 0:
        notes.append(
            f"{counted(missing)} of upstream {above.name} that {asset.name} is made from"
            f" {'does' if missing == 1 else 'do'} not exist or {'has' if missing == 1 else 'have'} not ended"
        )
