from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.backoff import Backoff


def test_losses_double_from_two_seconds_to_sixty() -> None:
    backoff, pauses = Backoff(), []
    for _ in range(8):
        pause, backoff = backoff.lost(0, 0.5)
        pauses.append(pause)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(("random_unit", "pause"), [(0.0, 1.0), (0.5, 2.0), (0.999, 2.998)])
def test_jitter_spreads_a_loss_over_half_to_three_halves(random_unit: float, pause: float) -> None:
    assert Backoff().lost(0, random_unit)[0] == pytest.approx(pause)


def test_healthy_minute_starts_over() -> None:
    assert Backoff(losses=5).lost(59.9, 0.5)[0] == 60
    assert Backoff(losses=5).lost(60, 0.5) == (2, Backoff(losses=1))
    assert Backoff(refusals=5).refused(60) == (60, Backoff(refusals=1))


def test_refusals_double_from_one_minute_to_fifteen() -> None:
    backoff, pauses = Backoff(), []
    for _ in range(7):
        pause, backoff = backoff.refused(0)
        pauses.append(pause)
    assert pauses == [60, 120, 240, 480, 900, 900, 900]


def test_refusal_and_loss_forget_each_other() -> None:
    assert Backoff(losses=4).refused(0) == (60, Backoff(refusals=1))
    assert Backoff(refusals=4).lost(0, 0.5) == (2, Backoff(losses=1))


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_pauses_stay_in_bounds_however_long_it_lasts(times: int, random_unit: float) -> None:
    assert 1 <= Backoff(losses=times).lost(0, random_unit)[0] <= 90
    assert 60 <= Backoff(refusals=times).refused(0)[0] <= 900
