"""Ages: their defaults are the runbook's, and one that comes too early is refused where it is read."""

from __future__ import annotations

import pytest

from starforge.backfill.state.ages import AgeSettings, EscalationSettings
from starforge.errors import InvalidSettingError
from tests.covers import covers


@covers("D-05", "D-13", "B-37", "B-51")
def test_the_ages_of_a_heartbeat_are_four_settings_with_the_runbooks_defaults() -> None:
    ages = AgeSettings.read()
    assert (ages.suspect_s, ages.reclaimable_s, ages.alert_s, ages.bulk_recovery_s) == (120, 120, 300, 600)
    assert ages.aged_s == 121


@covers("B-64", "B-65")
def test_it_is_escalated_after_half_an_hour_to_on_call_at_once_and_then_to_the_leads() -> None:
    calls = EscalationSettings.read()
    assert calls.stuck_s == 1800
    assert (calls.on_call_s, calls.backend_lead_s, calls.platform_lead_s) == (0, 900, 1800)


@pytest.mark.parametrize(
    ("group", "changed", "refused", "told"),
    [
        (
            AgeSettings,
            {"SUSPECT": "121"},
            "RECLAIMABLE",
            "at least STARFORGE_BACKFILL_SUSPECT_S, which is 121",
        ),
        (AgeSettings, {"RECLAIMABLE": "60"}, "RECLAIMABLE", "at least STARFORGE_BACKFILL_SUSPECT_S"),
        (AgeSettings, {"RECLAIMABLE": "301"}, "ALERT", "at least STARFORGE_BACKFILL_RECLAIMABLE_S"),
        (AgeSettings, {"ALERT": "601"}, "BULK_RECOVERY", "at least STARFORGE_BACKFILL_ALERT_S"),
        (AgeSettings, {"ALERT": "0"}, "ALERT", "greater than 0"),
        (AgeSettings, {"BULK_RECOVERY": "90000"}, "BULK_RECOVERY", "less than or equal to 86400"),
        (EscalationSettings, {"ESCALATE_BACKEND_LEAD": "1801"}, "ESCALATE_PLATFORM_LEAD", "which is 1801"),
        (EscalationSettings, {"ESCALATE_ON_CALL": "1000"}, "ESCALATE_BACKEND_LEAD", "which is 1000"),
    ],
)
@covers("D-05", "B-65")
def test_what_is_out_of_order_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
    group: type[AgeSettings | EscalationSettings],
    changed: dict[str, str],
    refused: str,
    told: str,
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(f"STARFORGE_BACKFILL_{name}_S", value)
    with pytest.raises(InvalidSettingError, match=told) as error:
        group.read()
    assert error.value.env == f"STARFORGE_BACKFILL_{refused}_S"
    assert "alue error" not in str(error.value)


def test_all_of_them_moved_in_order_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SUSPECT": "2", "RECLAIMABLE": "3", "ALERT": "4", "BULK_RECOVERY": "5"}.items():
        monkeypatch.setenv(f"STARFORGE_BACKFILL_{name}_S", value)
    assert AgeSettings.read().aged_s == 4
