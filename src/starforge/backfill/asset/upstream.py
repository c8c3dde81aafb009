"""What lies upstream of an asset, and which of its partitions one of the asset's is made from.

Between partitions of time it follows by itself: a window is made from all upstream windows that share some
time with it, so a month from its days, a day from its hours, a day in one zone from two in another. Equal
schemes have equal keys. For all else the asset says it: `Upstream("orders", maps=function)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from starforge.backfill.errors import AssetDeclarationError, MapsElsewhereError, PartitionKeyError
from starforge.backfill.scheme.keyed import KeyRange
from starforge.backfill.scheme.scheme import Scheme, Span, merged
from starforge.backfill.scheme.window import TimeScheme

Maps = Callable[[str], Iterable[str]]
"""From a partition's key to the keys upstream that it is made from."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """An asset that another one is made from.

    Args:
        name: Its name.
        maps: From a key of the asset below to the keys of this one that it needs; called for each key when a
            backfill includes the upstream. Needed where the schemes do not say it.
    """

    name: str
    maps: Maps | None = None


def unmapped(below: Scheme, above: Scheme) -> str | None:
    """Return why keys of one scheme do not map to those of another by themselves; None where they do."""
    if isinstance(below, TimeScheme) and isinstance(above, TimeScheme):
        return None
    if below == above or _same_rows(below, above):
        return None
    return f"its partitions ({below.told()}) say nothing of those of its upstream ({above.told()})"


def inputs(name: str, below: Scheme, upstream: Upstream, above: Scheme, spans: Iterable[Span]) -> list[Span]:
    """Return the places upstream that these places of the asset `name` are made from, merged.

    They may lie outside of what there is upstream.
    Raises: AssetDeclarationError where `maps=` fails or names what is no key upstream; MapsElsewhereError
        where it is not at hand.
    """
    if upstream.maps is not None:
        return merged(_mapped(name, below, upstream, upstream.maps, above, spans))
    if isinstance(below, TimeScheme) and isinstance(above, TimeScheme):
        return merged(
            above.during(below.start_of(first), below.start_of(end)) for first, end in spans if first < end
        )
    return merged(spans)


def _same_rows(below: Scheme, above: Scheme) -> bool:
    return (
        isinstance(below, KeyRange)
        and isinstance(above, KeyRange)
        and (below.table, below.key, below.rows) == (above.table, above.key, above.rows)
    )


def _mapped(
    name: str, below: Scheme, upstream: Upstream, maps: Maps, above: Scheme, spans: Iterable[Span]
) -> Iterator[Span]:
    for key, _place in below.listed(spans):
        what = f"asset {name}: maps= of upstream {upstream.name} for {key}"
        try:
            wanted = maps(key)
            wanted = [wanted] if isinstance(wanted, str) else list(wanted)
        except MapsElsewhereError:
            raise
        except Exception as error:
            raise AssetDeclarationError(f"{what} failed: {type(error).__name__}: {error}") from error
        for each in wanted:
            try:
                yield above.span(each, each)
            except (PartitionKeyError, AttributeError) as error:
                raise AssetDeclarationError(f"{what} gave what is no key there: {error}") from None
