from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.reconcile import Plan, fingerprint, plan

A, B, C = (UUID(int=number) for number in (1, 2, 3))
KEY = b"k" * 32
IDENTITY = ("app_id", "region")


@pytest.mark.parametrize(
    ("wanted", "running", "expected"),
    [
        pytest.param({}, {}, Plan(), id="nothing"),
        pytest.param({A: "fa", B: "fb"}, {}, Plan(start=(A, B)), id="missing ones are started"),
        pytest.param({A: "fa"}, {A: "fa"}, Plan(keep=(A,)), id="an unchanged one is kept"),
        pytest.param({B: "fb"}, {A: "fa", B: "fb"}, Plan(drain=(A,), keep=(B,)), id="an unlisted one is drained"),
        pytest.param({A: "new"}, {A: "old"}, Plan(start=(A,), drain=(A,)), id="a changed one is replaced"),
        pytest.param({A: "f", B: "f"}, {A: "g", C: "f"}, Plan(start=(A, B), drain=(A, C)), id="all at once"),
    ],
)
def test_plan_names_the_steps_from_what_runs_to_what_is_wanted(
    wanted: dict[UUID, str], running: dict[UUID, str], expected: Plan
) -> None:
    assert plan(wanted, running) == expected


PRINTS = st.dictionaries(st.sampled_from([A, B, C]), st.sampled_from(["f", "g"]))


@given(PRINTS, PRINTS)
def test_plan_that_is_followed_leaves_exactly_what_was_wanted_and_nothing_more_to_do(
    wanted: dict[UUID, str], running: dict[UUID, str]
) -> None:
    steps, followed = plan(wanted, running), dict(running)
    for id_ in steps.drain:
        del followed[id_]
    for id_ in steps.start:
        assert id_ not in followed
        followed[id_] = wanted[id_]
    assert followed == wanted
    assert plan(wanted, followed) == Plan(keep=tuple(wanted))


@given(PRINTS, PRINTS)
def test_plan_never_touches_what_it_keeps(wanted: dict[UUID, str], running: dict[UUID, str]) -> None:
    steps = plan(wanted, running)
    assert not {*steps.keep} & {*steps.start, *steps.drain}
    assert {*steps.keep, *steps.start} == set(wanted)
    assert {*steps.keep, *steps.drain} == set(running)


def _print(stored: dict[str, object], secret: str, *, channel_type: str = "feishu", key: bytes = KEY) -> str:
    return fingerprint(key, channel_type, stored, {**stored, "app_secret": secret}, IDENTITY)


STORED: dict[str, object] = {"app_id": "cli_1", "region": "feishu", "sealed": "AAAA", "bot_union_id": None}


def test_fingerprint_stays_when_the_secret_is_sealed_again_or_a_detail_is_filled_in() -> None:
    assert _print(STORED, "s") == _print({**STORED, "sealed": "BBBB"}, "s")
    assert _print(STORED, "s") == _print({**STORED, "bot_union_id": "on_1", "tenant_key": "t"}, "s")


def test_fingerprint_follows_identity_secret_and_type() -> None:
    prints = [
        _print(STORED, "s"),
        _print(STORED, "t"),
        _print({**STORED, "app_id": "cli_2"}, "s"),
        _print({**STORED, "region": "lark"}, "s"),
        _print(STORED, "s", channel_type="slack"),
    ]
    assert len(set(prints)) == len(prints)


def test_fingerprint_is_keyed_and_never_shows_the_secret() -> None:
    assert _print(STORED, "s") != _print(STORED, "s", key=b"l" * 32)
    assert "hunter2" not in _print(STORED, "hunter2")


def test_fingerprint_sees_a_secret_that_is_opened_in_place() -> None:
    def opened(secret: str, sealed: str) -> str:
        stored = {"app_id": "cli_1", "secret": sealed}
        return fingerprint(KEY, "feishu", stored, {**stored, "secret": secret}, IDENTITY)

    assert opened("s", "AAAA") == opened("s", "BBBB")
    assert opened("s", "AAAA") != opened("t", "AAAA")
