from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lease import OUTBOX_FINISH_SECONDS, SHIELDS_UNDER_LEASE_SECONDS, LeaseSettings, lease_token
from gateway.errors import ConfigError
from gateway.outbound.outbox import PARK_SECONDS


def test_defaults_leave_room_for_every_shield_under_a_lease() -> None:
    settings = LeaseSettings()
    assert settings.margin_seconds > SHIELDS_UNDER_LEASE_SECONDS
    assert settings.shields_fit
    assert not LeaseSettings.derived(6).shields_fit


def test_shields_of_those_who_work_under_a_lease_keep_to_their_share() -> None:
    assert PARK_SECONDS <= OUTBOX_FINISH_SECONDS


def test_derived_from_a_ttl_alone_takes_fixed_shares_of_it() -> None:
    assert LeaseSettings.derived(30) == LeaseSettings(30, 10, 5, 3)


@pytest.mark.parametrize(
    ("ttl", "renew", "poll", "margin"),
    [
        (15, 4, 5, 2),  # poll > renew
        (15, 15, 4, 2),  # renew = ttl
        (15, 4, 4, 11),  # margin = ttl - renew
        (15, 4, 0, 2),
        (15, 4, 4, 0),
        (0, 0, 0, 0),
        (-1, 4, 4, 2),
        (float("nan"), 4, 4, 2),
    ],
)
def test_unsafe_intervals_are_refused(ttl: float, renew: float, poll: float, margin: float) -> None:
    with pytest.raises(ConfigError, match="hub: "):
        LeaseSettings(ttl, renew, poll, margin)


@pytest.mark.parametrize(("ttl", "renew", "poll", "margin"), [(15, 4, 4, 2), (15, 14, 14, 0.5), (1, 0.3, 0.1, 0.6)])
def test_safe_intervals_are_accepted(ttl: float, renew: float, poll: float, margin: float) -> None:
    LeaseSettings(ttl, renew, poll, margin)


def test_trust_ends_a_margin_before_the_earliest_expiry() -> None:
    assert LeaseSettings().trusted_until(100.0) == 113.0


@st.composite
def _settings(draw: st.DrawFn) -> LeaseSettings:
    ttl = draw(st.floats(1, 300))
    renew = ttl * draw(st.floats(0.05, 0.9))
    margin = (ttl - renew) * draw(st.floats(0.05, 0.9))
    return LeaseSettings(ttl, renew, renew * draw(st.floats(0.1, 1)), margin)


@given(_settings(), st.floats(0, 1, exclude_max=True))
def test_two_renewals_fit_between_a_tick_and_the_end_of_trust(settings: LeaseSettings, random_unit: float) -> None:
    due = settings.renew_delay(random_unit)
    assert settings.renew_seconds * 0.9 <= due <= settings.renew_seconds * 1.1
    assert due + 2 * settings.attempt_seconds + settings.retry_seconds <= settings.trust_seconds + 1e-9


def test_token_names_node_and_generation() -> None:
    assert lease_token("5e1f", 7) == "5e1f-g7"
