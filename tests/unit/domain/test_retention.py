"""Retention: what the settings say, in seconds, and what is said of a step."""

from __future__ import annotations

from collections import Counter

import pytest

from controlplane.domain.execution import Status
from controlplane.domain.retention import DAY_SECONDS, Forgotten, Keep
from controlplane.settings import Settings


def test_everything_is_kept_by_default() -> None:
    """Nobody loses anything by an upgrade."""
    assert Settings().keep == Keep()
    assert Keep().statuses() == {}


@pytest.mark.parametrize("given", ["forever", ""])
def test_for_ever_can_be_said(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file where every setting has its line."""
    monkeypatch.setenv("CONTROLPLANE_KEEP_FAILED_DAYS", given)

    assert Settings().keep_failed_days is None


def test_days_become_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting is that of its own status."""
    names = ("succeeded", "failed", "cancelled", "timeout", "events", "logs", "delivered", "dead")
    for days, name in enumerate(names, 1):
        monkeypatch.setenv(f"CONTROLPLANE_KEEP_{name.upper()}_DAYS", str(days))

    keep = Settings().keep

    assert [getattr(keep, f"{name}_seconds") for name in names] == [n * DAY_SECONDS for n in range(1, 9)]
    assert keep.statuses()[Status.CANCELLED] == 3 * DAY_SECONDS


def test_the_audit_log_is_kept_for_a_month_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day fewer than the database would let go is refused at once."""
    monkeypatch.setenv("CONTROLPLANE_KEEP_AUDIT_DAYS", "30")
    assert Settings().keep_audit_days == 30
    monkeypatch.setenv("CONTROLPLANE_KEEP_AUDIT_DAYS", "29")

    with pytest.raises(ValueError, match="30"):
        Settings()


def test_steps_add_up() -> None:
    """What removed no rows removed nothing."""
    sum_ = Forgotten()
    for _ in range(2):
        sum_.add(Forgotten(executions=Counter(failed=1), rows=Counter(logs=2)))

    assert (sum_.executions, sum_.rows, sum_.any) == ({"failed": 2}, {"logs": 4}, True)
    assert not Forgotten(rows=Counter(logs=0)).any
