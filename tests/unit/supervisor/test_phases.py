from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import LocalProtocolError
from gateway.supervisor.phases import LEAVING, TRANSITIONS, Phase, PhaseTrigger, follow

HOLDING = {Phase.CONNECTING, Phase.LINKED}


def walk(*triggers: PhaseTrigger) -> Phase:
    phase = Phase.WAITING
    for trigger in triggers:
        phase = follow(phase, trigger)
    return phase


def test_every_phase_has_its_row_and_a_drain_leads_out_of_each() -> None:
    assert set(TRANSITIONS) == set(Phase)
    for phase in set(Phase) - LEAVING:
        assert follow(phase, PhaseTrigger.DRAIN) is Phase.DRAINING
        assert follow(phase, PhaseTrigger.WITHDRAW) is Phase.WITHDRAWN


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.WITHDRAWN])
def test_final_phase_absorbs_whatever_the_task_reports_late(phase: Phase) -> None:
    assert {follow(phase, trigger) for trigger in PhaseTrigger} == {phase}


def test_life_of_an_assignment_that_takes_over_and_loses_its_link() -> None:
    begun = (PhaseTrigger.PREDECESSOR_ENDED, PhaseTrigger.HELD)
    assert walk(*begun) is Phase.STANDBY
    linked = (*begun, PhaseTrigger.FREED, PhaseTrigger.GRANTED, PhaseTrigger.ESTABLISHED)
    assert walk(*linked) is Phase.LINKED
    assert walk(*linked, PhaseTrigger.FAILED) is Phase.PAUSED
    assert walk(*linked, PhaseTrigger.FAILED, PhaseTrigger.RESTED) is Phase.ASKING


def test_lease_comes_from_a_grant_alone_and_ends_before_it_is_asked_for_again() -> None:
    entered = {(phase, trigger) for phase, row in TRANSITIONS.items() for trigger, to in row.items() if to in HOLDING}
    assert entered == {(Phase.ASKING, PhaseTrigger.GRANTED), (Phase.CONNECTING, PhaseTrigger.ESTABLISHED)}
    assert {to for phase in HOLDING for to in TRANSITIONS[phase].values()} == {Phase.LINKED, Phase.PAUSED, *LEAVING}


@pytest.mark.parametrize(
    ("phase", "trigger"),
    [
        (Phase.WAITING, PhaseTrigger.GRANTED),
        (Phase.STANDBY, PhaseTrigger.ESTABLISHED),
        (Phase.PAUSED, PhaseTrigger.GRANTED),
        (Phase.LINKED, PhaseTrigger.HELD),
    ],
)
def test_trigger_that_makes_no_sense_is_a_bug(phase: Phase, trigger: PhaseTrigger) -> None:
    with pytest.raises(LocalProtocolError, match=f"{trigger.name} makes no sense in the phase {phase.name}"):
        follow(phase, trigger)


@given(st.data())
def test_every_walk_can_be_drained_and_none_comes_back(data: st.DataObject) -> None:
    phase = Phase.WAITING
    for _ in range(data.draw(st.integers(0, 12))):
        phase = follow(phase, data.draw(st.sampled_from(sorted(TRANSITIONS[phase], key=lambda each: each.value))))
    final = follow(phase, PhaseTrigger.DRAIN)
    assert final in LEAVING
    if phase in LEAVING:
        assert final is phase
