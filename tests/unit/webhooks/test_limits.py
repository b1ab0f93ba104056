"""The limits of requests to triggers: what counts against whom, and what has to wait."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from gateway.webhooks.limits import CEILING, Gates, LimitReached, Standing

TRIGGER, OTHER = uuid4(), uuid4()
PROVEN, UNPROVEN, DISPROVED = Standing.PROVEN, Standing.UNPROVEN, Standing.DISPROVED


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


# --- what a request is worth ------------------------------------------------------------------------------------------


def gates(clock: Clock | None = None, *, pace: int = 2, per_address: int = 3) -> Gates:
    return Gates(per_token_per_minute=pace, per_ip_per_minute=per_address, clock=clock or Clock())


def admit(doors: Gates, address: str, trigger_id: UUID, standing: Standing, begins: bool) -> bool:
    """Count a request; True if what it begins has to wait."""
    doors.count(address, trigger_id, standing)
    return begins and doors.has_to_wait(trigger_id, standing)


def test_bad_credentials_count_against_their_address_and_keep_no_proof_out() -> None:
    doors = gates()
    for _ in range(2):
        doors.count_unknown("a")
    with pytest.raises(LimitReached):
        for _ in range(2):
            admit(doors, "a", TRIGGER, DISPROVED, False)
    assert doors.is_spent("a")
    assert not doors.is_spent("b")
    assert admit(doors, "a", TRIGGER, PROVEN, True) is False


def test_bad_signatures_from_everywhere_use_up_their_own_budget_of_the_trigger() -> None:
    doors = gates()
    for address in ("a", "b"):
        admit(doors, address, TRIGGER, DISPROVED, False)
    with pytest.raises(LimitReached) as refused:
        admit(doors, "c", TRIGGER, DISPROVED, False)
    assert refused.value.gate == "token"
    assert admit(doors, "c", TRIGGER, PROVEN, True) is False


def test_unsigned_trigger_proves_nothing_and_is_held_to_its_pace() -> None:
    doors = gates()
    for _ in range(2):
        doors.check_unsigned(TRIGGER)
        assert admit(doors, "a", TRIGGER, UNPROVEN, True) is False
    with pytest.raises(LimitReached):
        doors.check_unsigned(TRIGGER)
    with pytest.raises(LimitReached):
        admit(doors, "a", TRIGGER, UNPROVEN, True)
    doors.check_unsigned(OTHER)


def test_proven_beyond_the_pace_waits_and_is_refused_above_the_ceiling_only() -> None:
    clock = Clock()
    doors = gates(clock)
    assert [admit(doors, "a", TRIGGER, PROVEN, True) for _ in range(2 * CEILING)] == [False] * 2 + [True] * 18
    with pytest.raises(LimitReached) as refused:
        admit(doors, "a", TRIGGER, PROVEN, True)
    assert refused.value.extra["retry_after"] == 60
    assert admit(doors, "a", OTHER, PROVEN, True) is False


def test_what_begins_nothing_takes_no_turn_from_others() -> None:
    doors = gates()
    assert [admit(doors, "a", TRIGGER, PROVEN, False) for _ in range(9)] == [False] * 9
    assert admit(doors, "a", TRIGGER, PROVEN, True) is False


def test_next_one_waits_behind_those_that_wait_although_the_minute_has_passed() -> None:
    clock = Clock()
    doors = gates(clock)
    assert [admit(doors, "a", TRIGGER, PROVEN, True) for _ in range(3)] == [False, False, True]
    clock.now += 60
    assert admit(doors, "a", TRIGGER, PROVEN, True) is True
    assert [doors.take_turn(TRIGGER) for _ in range(3)] == [True, True, False]
    doors.set_waiting([])
    clock.now += 60
    assert admit(doors, "a", TRIGGER, PROVEN, True) is False


def test_zero_turns_both_limits_off() -> None:
    doors = gates(pace=0, per_address=0)
    for _ in range(100):
        doors.count_unknown("a")
        doors.check_unsigned(TRIGGER)
        assert admit(doors, "a", TRIGGER, DISPROVED, False) is False
        assert admit(doors, "a", TRIGGER, UNPROVEN, True) is False
        assert admit(doors, "a", TRIGGER, PROVEN, True) is False
        assert doors.take_turn(TRIGGER)
    assert not doors.is_spent("a")
