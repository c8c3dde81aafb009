"""Ages: how old a heartbeat may be before something follows from it, and when people are called.      (D-05)

Four ages and three calls, each a setting, each in its order: a heartbeat is suspected before it is reclaimed,
reclaimed before anybody is alarmed, and alarming before all such backfills are recovered at once.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationInfo, field_validator

from starforge.settings import Settings, setting

DAY_S = 86_400.0


class AgeSettings(Settings):
    """How old the heartbeat of a backfill's coordinator may be."""

    suspect_s: float = setting(
        120.0,
        env="STARFORGE_BACKFILL_SUSPECT_S",
        unit="seconds",
        meaning="Age of a heartbeat above which a running backfill is listed as suspect.",
        gt=0,
        le=DAY_S,
    )
    reclaimable_s: float = setting(
        120.0,
        env="STARFORGE_BACKFILL_RECLAIMABLE_S",
        unit="seconds",
        meaning="Age above which another coordinator takes a backfill over; not below the suspect age.",
        gt=0,
        le=DAY_S,
    )
    alert_s: float = setting(
        300.0,
        env="STARFORGE_BACKFILL_ALERT_S",
        unit="seconds",
        meaning="Age above which a backfill counts as stuck; at least the age at which it is taken over.",
        gt=0,
        le=DAY_S,
    )
    bulk_recovery_s: float = setting(
        600.0,
        env="STARFORGE_BACKFILL_BULK_RECOVERY_S",
        unit="seconds",
        meaning="Age above which reclaim-stale and cancel-resuming act; at least the age of the alert.",
        gt=0,
        le=DAY_S,
    )

    @field_validator("reclaimable_s", "alert_s", "bulk_recovery_s")
    @classmethod
    def _in_order(cls, value: float, info: ValidationInfo) -> float:
        return _not_before(value, info, ("suspect_s", "reclaimable_s", "alert_s"), cls)

    @property
    def aged_s(self) -> float:
        """The age that a heartbeat is given so that its backfill is claimable at once (D-13)."""
        return self.reclaimable_s + 1


class EscalationSettings(Settings):
    """When a backfill that is stuck is somebody's matter, and whose (B-64, B-65)."""

    stuck_s: float = setting(
        1800.0,
        env="STARFORGE_BACKFILL_ESCALATE_STUCK_S",
        unit="seconds",
        meaning="How long several backfills may be stuck, or a cause unknown, before it is escalated.",
        gt=0,
        le=DAY_S,
    )
    on_call_s: float = setting(
        0.0,
        env="STARFORGE_BACKFILL_ESCALATE_ON_CALL_S",
        unit="seconds",
        meaning="Time from an incident's beginning to the call of whoever is on call.",
        ge=0,
        le=DAY_S,
    )
    backend_lead_s: float = setting(
        900.0,
        env="STARFORGE_BACKFILL_ESCALATE_BACKEND_LEAD_S",
        unit="seconds",
        meaning="Time to the call of the backend lead; not before whoever is on call.",
        ge=0,
        le=DAY_S,
    )
    platform_lead_s: float = setting(
        1800.0,
        env="STARFORGE_BACKFILL_ESCALATE_PLATFORM_LEAD_S",
        unit="seconds",
        meaning="Time to the call of the platform lead; not before the backend lead.",
        ge=0,
        le=DAY_S,
    )

    @field_validator("backend_lead_s", "platform_lead_s")
    @classmethod
    def _in_order(cls, value: float, info: ValidationInfo) -> float:
        return _not_before(value, info, ("on_call_s", "backend_lead_s"), cls)


def _not_before(value: float, info: ValidationInfo, earlier: tuple[str, ...], group: Any) -> float:
    """Return the value; raise ValueError where one that comes before it is larger."""
    for name in earlier:
        if name == info.field_name:
            break
        before = info.data.get(name)  # missing where that one was refused itself
        if before is not None and value < before:
            env = group.model_fields[name].validation_alias
            raise ValueError(f"it must be at least {env}, which is {before:g}")
    return value
