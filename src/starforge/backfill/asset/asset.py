"""The asset: a function over partitions, with what it declares, and the assets that a process knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypedDict

from starforge.backfill.asset.revision import revision_of
from starforge.backfill.asset.takes import Takes
from starforge.backfill.asset.upstream import Upstream, inputs, unmapped
from starforge.backfill.errors import AssetDeclarationError, UnknownAssetError
from starforge.backfill.scheme.scheme import Scheme, Span
from starforge.backfill.scheme.snapshot_range import SnapshotRange
from starforge.queue.declare import Limit, Retry, seconds
from starforge.queue.entry import ATTEMPTS_MAX
from starforge.queue.errors import DeclarationError
from starforge.queue.job import JobSettings
from starforge.settings import Settings, setting

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,99}", re.ASCII)
VERSION_CHARS_MAX = 100
OWNER_CHARS_MAX = 200
CONCURRENCY_MAX = 1000
RETRIES_MAX = 1000

SNAPSHOT_JOB_TYPE = "backfill_range"


class AssetSettings(Settings):
    """What holds for assets that do not declare it."""

    concurrency: int = setting(
        4,
        env="STARFORGE_BACKFILL_CONCURRENCY",
        unit="partitions",
        meaning="Partitions of a backfill that run at once where its asset declares no concurrency.",
        ge=1,
        le=1000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A function over partitions; made by `asset(…)`."""

    name: str
    handler: Takes | None
    """None where only its declaration is known: backfills can be made of it; workers elsewhere run them."""

    partitions: Scheme
    upstream: tuple[Upstream, ...] = ()
    concurrency: int | None = None
    """Partitions at once in one backfill; None means as the settings say."""

    timeout_s: float | None = None
    """Longest attempt at a partition."""

    retry: Retry = field(default_factory=Retry)
    """`retry.attempts` is how often a partition is tried in all; None means as the settings say."""

    owner: str | None = None
    validate: Takes | None = None
    """Called after the handler, in the same transaction: what it raises fails the partition."""

    version: str
    """Of its code; a partition that another version made is stale."""

    @property
    def takes_connection(self) -> bool:
        """Whether the handler, or what validates, writes in the partition's own transaction."""
        return any(
            takes is not None and takes.connection is not None for takes in (self.handler, self.validate)
        )

    @property
    def limit(self) -> Limit:
        """How many partitions of one backfill run at once, where nobody says otherwise at run time."""
        return Limit(per_key=self.slots, key="backfill_id")

    @property
    def job_type(self) -> str:
        """The type of its partitions' jobs."""
        return SNAPSHOT_JOB_TYPE if isinstance(self.partitions, SnapshotRange) else f"asset:{self.name}"

    @property
    def slots(self) -> int:
        """Partitions at once in one backfill that says nothing of it."""
        return AssetSettings.read().concurrency if self.concurrency is None else self.concurrency

    @property
    def attempts_max(self) -> int:
        """Failures after which a partition of a backfill that says nothing of it is given up."""
        declared = self.retry.attempts
        return JobSettings.read().max_attempts if declared is None else min(declared, ATTEMPTS_MAX)


class AssetOptions(TypedDict, total=False):
    """The arguments of `@app.asset(…)` beside the name and the partitions."""

    upstream: Iterable[str | Upstream | Asset]
    """Assets that it is made from; `Upstream(name, maps=…)` where keys do not map by themselves."""

    concurrency: int
    """Partitions at once in one backfill."""

    timeout: float | timedelta
    """Longest attempt at a partition, seconds or a timedelta."""

    retries: int | Retry
    """How often a failed partition is tried again; or a Retry, which counts attempts."""

    owner: str
    """Who answers for it."""

    validate: Callable[..., Any]
    """Takes what the handler may take, runs after it in its transaction, and raises where it went wrong."""

    version: str
    """Version of its code; a hash of the handler's source where not given."""


def asset(
    name: str,
    handler: Callable[..., Any],
    *,
    partitions: Scheme,
    names: Mapping[str, Any] | None = None,
    **options: Any,
) -> Asset:
    """Check and make an asset.

    Args:
        name: 1 to 100 letters, digits and `_ . / -`.
        handler: Takes the partition; a parameter called `ctx` gets the attempt's context, one called `conn`
            the connection whose transaction is the partition's, one marked with Depends is opened for it.
        partitions: Daily, Hourly, Monthly, Static, KeyRange or SnapshotRange.
        names: What the handler's annotations may use beside its module's names.
        options: What `AssetOptions` holds.
    Raises: AssetDeclarationError.
    """
    what = f"asset {_name(name)}"
    if unknown := sorted(set(options) - set(AssetOptions.__annotations__)):
        known = ", ".join(AssetOptions.__annotations__)
        raise AssetDeclarationError(f"{what}: there is no {', '.join(unknown)}; it may declare {known}")
    names, validate, version = names or {}, options.get("validate"), options.get("version")
    return Asset(
        name=name,
        handler=Takes.of(handler, what, names=names),
        partitions=_scheme(what, partitions),
        upstream=_upstream(what, options.get("upstream", ())),
        concurrency=_whole(what, "concurrency", options.get("concurrency"), 1, CONCURRENCY_MAX),
        timeout_s=_timeout(what, options.get("timeout")),
        retry=_retry(what, options.get("retries")),
        owner=_text(what, "owner", options.get("owner"), OWNER_CHARS_MAX),
        validate=None if validate is None else Takes.of(validate, f"{what}: validate", names=names),
        version=_text(what, "version", version, VERSION_CHARS_MAX) or revision_of(handler),
    )


class Assets:
    """The assets that a process knows; two of one name are refused."""

    def __init__(self, assets: Iterable[Asset] = ()) -> None:
        self._assets: dict[str, Asset] = {}
        self._bound = False
        for each in assets:
            self.add(each)

    def add(self, declared: Asset) -> Asset:
        """Register an asset and return it; raise AssetDeclarationError where its name is taken."""
        if declared.name in self._assets:
            raise AssetDeclarationError(f"asset {declared.name} is declared twice: give one another name")
        self._assets[declared.name] = declared
        self._bound = False
        return declared

    def get(self, name: str) -> Asset:
        """Return an asset; raise UnknownAssetError, with those of a similar name, where there is none."""
        found = self._assets.get(name)
        if found is None:
            raise UnknownAssetError(name, self.names())
        return found

    def names(self) -> tuple[str, ...]:
        """Return the names, sorted."""
        return tuple(sorted(self._assets))

    def __iter__(self) -> Iterator[Asset]:
        return iter(self._assets.values())

    def __len__(self) -> int:
        return len(self._assets)

    def bind(self) -> None:
        """Check what the assets say of one another, once all are declared.

        Raises: AssetDeclarationError for an upstream that is not declared, a cycle, named in full, and keys
            that do not map by themselves.
        """
        if self._bound:
            return
        for below in self._assets.values():
            for edge in below.upstream:
                above = self._assets.get(edge.name)
                if above is None:
                    unknown = UnknownAssetError(edge.name, self.names())
                    raise AssetDeclarationError(f"asset {below.name}: its upstream: {unknown}")
                why = None if edge.maps else unmapped(below.partitions, above.partitions)
                if why is not None:
                    raise AssetDeclarationError(
                        f"asset {below.name}: {why}: say it with Upstream({edge.name!r}, maps=…)"
                    )
        if cycle := self._cycle():
            raise AssetDeclarationError(f"assets are upstream of themselves: {' → '.join(cycle)}")
        self._bound = True

    def inputs(self, below: Asset, edge: Upstream, spans: Iterable[Span]) -> list[Span]:
        """Return the places of an upstream that these places of an asset are made from.

        Raises: AssetDeclarationError where `maps=` fails.
        """
        return inputs(below.name, below.partitions, edge, self.get(edge.name).partitions, spans)

    def _cycle(self) -> list[str]:
        """Return the names of a cycle, the first one also at its end; without one, nothing."""
        done: set[str] = set()
        for start in self._assets:
            # Not by recursion: a long chain is no reason to fall over.
            path: dict[str, Iterator[Upstream]] = {start: iter(self._assets[start].upstream)}
            while path:
                name, edges = next(reversed(path.items()))
                edge = next((edge for edge in edges if edge.name not in done), None)
                if edge is None:
                    done.add(name)
                    del path[name]
                elif edge.name in path:
                    names = list(path)
                    return [*names[names.index(edge.name) :], edge.name]
                else:
                    path[edge.name] = iter(self._assets[edge.name].upstream)
        return []


def _name(name: object) -> str:
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise AssetDeclarationError(f"asset {name!r}: a name is 1 to 100 letters, digits and _ . / -")
    return name


def _scheme(what: str, given: object) -> Scheme:
    if isinstance(given, Scheme):
        return given
    hint = f"; write {given.__name__}(…)" if isinstance(given, type) else ""
    raise AssetDeclarationError(f"{what}: partitions={given!r} is no scheme of partitions{hint}")


def _upstream(what: str, given: object) -> tuple[Upstream, ...]:
    if isinstance(given, (str, Upstream, Asset)) or not isinstance(given, Iterable):
        raise AssetDeclarationError(f"{what}: upstream={given!r}: write a list, as in upstream=['orders']")
    found = []
    for each in given:
        edge = (
            Upstream(each.name)
            if isinstance(each, Asset)
            else Upstream(each)
            if isinstance(each, str)
            else each
        )
        if not isinstance(edge, Upstream):
            raise AssetDeclarationError(
                f"{what}: upstream {each!r} is no name of an asset and no Upstream(…)"
            )
        if edge.maps is not None and not callable(edge.maps):
            raise AssetDeclarationError(f"{what}: maps={edge.maps!r} of upstream {edge.name} is no function")
        found.append(edge)
    names = [edge.name for edge in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise AssetDeclarationError(f"{what}: upstream names {', '.join(twice)} twice")
    return tuple(found)


def _timeout(what: str, value: float | timedelta | None) -> float | None:
    try:
        return None if value is None else seconds("timeout", value)
    except DeclarationError as error:
        raise AssetDeclarationError(f"{what}: {error}") from None


def _retry(what: str, value: object) -> Retry:
    if isinstance(value, Retry):
        return value
    again = _whole(what, "retries", value, 0, RETRIES_MAX)
    return Retry() if again is None else replace(Retry(), attempts=again + 1)


def _whole(what: str, option: str, value: object, least: int, most: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise AssetDeclarationError(
            f"{what}: {option} is {value!r}; it must be a whole number from {least} to {most}"
        )
    return value


def _text(what: str, option: str, value: object, chars_max: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= chars_max or not value.isprintable():
        raise AssetDeclarationError(
            f"{what}: {option} is {value!r}; it must be 1 to {chars_max} printable characters"
        )
    return value
