"""The errors of the backfill room."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from uuid import UUID

from starforge.errors import MisusedError, NotFoundError, RefusedError

NAMES_TOLD_MAX = 8


class AssetDeclarationError(MisusedError):
    """What an asset or its partitions declare cannot be; refused where it is declared or bound."""

    code = "SF501"
    remedy = "Correct the argument of `@app.asset(...)` that the message names."


class UnknownAssetError(NotFoundError):
    """No asset of that name is declared."""

    code = "SF502"
    remedy = "Name one that is declared; workers make those of their app known when they start."

    def __init__(self, name: str, known: Sequence[str]) -> None:
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        super().__init__(f"no asset is called {name!r}; {_nearest(near, known)}")
        self.name, self.known, self.near = name, tuple(known), tuple(near)


class PartitionKeyError(MisusedError):
    """A text is no key of the asset's partitions: written otherwise, or naming none of them."""

    code = "SF503"
    remedy = "Write the key as the message shows."

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key[:200]!r} {reason}")
        self.key, self.reason = key, reason


class BackwardRangeError(MisusedError):
    """A range ends before it starts."""

    code = "SF504"
    remedy = "Give the earlier key to --from and the later one to --to; both are included."


class OutsidePartitionsError(RefusedError):
    """A key lies before the asset's first partition, beyond its last one, or has not ended yet."""

    code = "SF505"
    remedy = "Choose among the partitions that there are, as the message names them."
    http_status = 422


class TooManyPartitionsError(RefusedError):
    """A request names more partitions than one backfill may have."""

    code = "SF506"
    remedy = "Make several backfills of it, or raise STARFORGE_BACKFILL_PARTITIONS_MAX."
    http_status = 422


class NothingSelectedError(RefusedError):
    """A request names no partition at all."""

    code = "SF507"
    remedy = "Look at what the message says there is; nothing was created."
    http_status = 422


class UpstreamDepthError(RefusedError):
    """An asset's upstream reaches further up than a backfill follows without being told so."""

    code = "SF508"
    remedy = "Say with --max-depth how many levels to include."
    http_status = 422


class SelectionError(MisusedError):
    """The options that choose partitions contradict one another, or one is outside its bounds."""

    code = "SF509"
    remedy = "Leave one of the options out, or correct the one that the message names."


class OverlapError(RefusedError):
    """Another live backfill of the asset covers some of the same partitions: the database refuses it."""

    code = "SF510"
    remedy = "Wait for the other one or cancel it, or choose partitions that it does not cover."


class KeyTableError(RefusedError):
    """The table that a key range walks cannot be read."""

    code = "SF511"
    remedy = (
        "Correct `KeyRange(table, key=…)`, or grant SELECT on the table to the role that the message names."
    )
    http_status = 422


class MapsElsewhereError(RefusedError):
    """How an asset's partitions map to its upstream's is a function, and that is in its app alone."""

    code = "SF512"
    remedy = (
        "Create it from the app that declares the asset: await app.backfill(NAME, …, include_upstream=True)."
    )
    http_status = 422


class PreflightError(RefusedError):
    """Something that was looked at before the backfill speaks against it; nothing was created."""

    code = "SF513"
    remedy = (
        "Put right what the message names; or go on all the same with --override-preflight --reason TEXT."
    )


class StoredAssetError(RefusedError):
    """What a worker wrote down of an asset cannot be read by this version."""

    code = "SF514"
    remedy = "Use the version of StarForge that the newest workers run."


class BackfillOptionError(MisusedError):
    """An option of a backfill is outside its bounds, or cannot be read."""

    code = "SF515"
    remedy = "Correct the option that the message names."


class PartitionOverError(RefusedError):
    """An attempt at a partition went on after another had followed it; what it did is not committed."""

    code = "SF540"
    remedy = "Nothing is to be done: the attempt that followed makes the partition."

    def __init__(self, key: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} at partition {key} is over: another one followed it")
        self.key, self.attempt = key, attempt


class UnknownBackfillError(NotFoundError):
    """No backfill has this id, or not for this tenant."""

    code = "SF530"
    remedy = "See the ids: starforge backfill list; TENANT_ID says whose are seen."

    def __init__(self, backfill_id: UUID) -> None:
        super().__init__(f"there is no backfill {backfill_id}")
        self.backfill_id = backfill_id


class BackfillStateError(RefusedError):
    """The backfill's state does not allow what was asked."""

    code = "SF521"
    remedy = "The message says what state it is in and which command works there."


class StaleVersionError(RefusedError):
    """The backfill has changed since whoever asks looked at it; nothing was done."""

    code = "SF522"
    remedy = "Look at it again, and repeat with the version that it has now if it is still wanted."


class CheckpointMismatchError(RefusedError):
    """The checkpoint does not fit the partitions: going on from it could skip some."""

    code = "SF523"
    remedy = (
        "Correct what the message names, or resume with --override-integrity and a reason:"
        " partitions that are pending are then found by their rows and not by the checkpoint."
    )


class PartitionsRunError(RefusedError):
    """Partitions of the backfill run, and a new one would make them at the same time."""

    code = "SF525"
    remedy = "Wait until what runs has ended, having paused it where it goes on, and repeat."


class NothingFailedError(RefusedError):
    """None of the backfill's partitions has failed, or none as the fingerprint says."""

    code = "SF524"
    remedy = "Look at its failed partitions; those that wait for their next attempt have not failed yet."


class WalkError(MisusedError):
    """A handler walks what cannot be walked, or keeps a cursor of its own where a walk keeps one."""

    code = "SF535"
    remedy = "Walk each partition of a KeyRange once, in one walk, and leave its cursor to it."


def _nearest(near: Sequence[str], known: Sequence[str]) -> str:
    if near:
        return f"did you mean {' or '.join(near)}? `starforge backfill create {near[0]} --dry-run` shows it"
    if not known:
        return (
            "no worker has declared any yet: `starforge worker --app MODULE:ATTR` declares those of its app"
        )
    more = f" and {len(known) - NAMES_TOLD_MAX} more" if len(known) > NAMES_TOLD_MAX else ""
    told = f"there {'is' if len(known) == 1 else 'are'} {', '.join(known[:NAMES_TOLD_MAX])}{more}"
    return f"{told}; `starforge backfill create {known[0]} --dry-run` shows one"
