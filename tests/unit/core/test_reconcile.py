from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.reconcile import Plan, Roster, Start, Stop, fingerprint

A, B, C = (UUID(int=number) for number in (1, 2, 3))
KEY = b"k" * 32
IDENTITY = ("app_id", "region")


def test_missing_installations_are_started() -> None:
    plan = Roster().reconcile({A: "fa", B: "fb"})
    assert plan == Plan(start=(Start(A, "fa", 1), Start(B, "fb", 2)))


def test_unchanged_installation_is_kept() -> None:
    roster = Roster()
    roster.reconcile({A: "fa"})
    assert roster.reconcile({A: "fa"}) == Plan(keep=(A,))


def test_installation_that_is_not_listed_any_more_is_stopped() -> None:
    roster = Roster()
    roster.reconcile({A: "fa", B: "fb"})
    assert roster.reconcile({B: "fb"}) == Plan(stop=(Stop(A, 1, gone=True),), keep=(B,))
    assert roster.reconcile({B: "fb"}) == Plan(keep=(B,))


def test_changed_fingerprint_replaces_with_a_new_generation_that_waits() -> None:
    roster = Roster()
    roster.reconcile({A: "old"})
    assert roster.reconcile({A: "new"}) == Plan(stop=(Stop(A, 1, gone=False),), start=(Start(A, "new", 2, after=1),))


def test_late_end_of_a_replaced_generation_leaves_the_successor() -> None:
    roster = Roster()
    roster.reconcile({A: "old"})
    roster.reconcile({A: "new"})
    roster.ended(A, 1)
    assert roster.reconcile({A: "new"}) == Plan(keep=(A,))


def test_installation_that_comes_back_while_it_drains_waits_for_its_end() -> None:
    roster = Roster()
    roster.reconcile({A: "f"})
    roster.reconcile({})
    assert roster.reconcile({A: "f"}).start == (Start(A, "f", 2, after=1),)


def test_installation_that_comes_back_after_its_end_waits_for_nothing() -> None:
    roster = Roster()
    roster.reconcile({A: "f"})
    roster.reconcile({})
    roster.ended(A, 1)
    assert roster.reconcile({A: "f"}).start == (Start(A, "f", 2),)


def test_generation_that_ended_by_itself_is_started_again() -> None:
    roster = Roster()
    roster.reconcile({A: "f"})
    roster.ended(A, 1)
    assert roster.reconcile({A: "f"}).start == (Start(A, "f", 2),)


@given(st.lists(st.dictionaries(st.sampled_from([A, B, C]), st.sampled_from(["f", "g"]))))
def test_each_sweep_leaves_exactly_what_was_wanted_running(sweeps: list[dict[UUID, str]]) -> None:
    roster, running = Roster(), dict[UUID, Start]()
    generations = []
    for wanted in sweeps:
        plan = roster.reconcile(wanted)
        for stop in plan.stop:
            assert running.pop(stop.installation_id).generation == stop.generation
        for start in plan.start:
            assert start.installation_id not in running
            running[start.installation_id] = start
            generations.append(start.generation)
        assert {id_: start.fingerprint for id_, start in running.items()} == wanted
        assert len(plan.keep) + len(plan.start) == len(wanted)
    assert generations == sorted(set(generations))


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
