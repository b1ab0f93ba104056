"""Readiness: all checks, each within its bound."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from gateway.errors import StoreUnavailable
from gateway.observe.health import Readiness, Report


async def good() -> None:
    return None


async def test_report_without_checks_is_ready() -> None:
    report = await Readiness().report()
    assert report.ready
    assert report.checks == {}


async def test_report_names_every_check_in_order() -> None:
    readiness = Readiness()

    async def bad() -> str:
        return "2 migrations are pending"

    readiness.add("database", good)
    readiness.add("migrations", bad)
    report = await readiness.report()
    assert not report.ready
    assert report.status == "unavailable"
    assert list(report.checks.items()) == [("database", "ok"), ("migrations", "2 migrations are pending")]


async def test_check_that_raises_fails_without_telling_strangers_why() -> None:
    readiness = Readiness()

    async def broken() -> None:
        raise RuntimeError("postgresql://u:hunter2@db")

    readiness.add("database", broken)
    report = await readiness.report()
    assert report.checks == {"database": "failed (RuntimeError); see the log"}


async def test_check_that_hangs_fails_alone_and_in_time(autojump_clock: MockClock) -> None:
    readiness = Readiness(check_timeout_seconds=2)
    readiness.add("hangs", trio.sleep_forever)
    readiness.add("database", good)
    with trio.fail_after(10):
        report = await readiness.report()
    assert trio.current_time() < 3
    assert report.checks == {"hangs": "no answer within 2 s", "database": "ok"}
    assert not report.ready


async def test_failing_check_is_logged_when_it_begins_and_when_it_ends() -> None:
    readiness = Readiness()
    problems: list[Exception | None] = [StoreUnavailable("refused")] * 3 + [None, None, RuntimeError("bug")]

    async def check() -> None:
        if problem := problems.pop(0):
            raise problem

    readiness.add("database", check, kept_seconds=0)
    with capture_logs() as logged:
        for _ in range(6):
            await readiness.report()
    assert [entry["event"] for entry in logged] == [
        "readiness_check_raised",
        "readiness_check_failed",
        "readiness_check_recovered",
        "readiness_check_raised",
        "readiness_check_failed",
    ]
    foreseen, bug = logged[0], logged[3]
    assert (foreseen["error"], foreseen["exc_info"]) == ("refused", None)
    assert isinstance(bug["exc_info"], RuntimeError)


async def test_answer_counts_for_a_while_and_a_bad_one_not_for_long(autojump_clock: MockClock) -> None:
    asked: list[float] = []
    problem: list[str | None] = [None, "the disk is full", None]

    async def write() -> str | None:
        asked.append(trio.current_time())
        return problem[len(asked) - 1]

    readiness = Readiness()
    readiness.add("write", write, kept_seconds=5)
    with trio.fail_after(60):
        for _ in range(100):
            await readiness.report()
            await trio.sleep(0.1)
    first, second, third = asked
    assert 5 <= second - first < 5.2
    assert 1 <= third - second < 1.2


async def test_probes_that_come_together_share_one_round_of_checks(autojump_clock: MockClock) -> None:
    asked = 0
    reports: list[Report] = []

    async def write() -> None:
        nonlocal asked
        asked += 1
        await trio.sleep(1)

    readiness = Readiness()
    readiness.add("write", write, kept_seconds=5)

    async def probe() -> None:
        reports.append(await readiness.report())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(probe)
    assert asked == 1
    assert [report.status for report in reports] == ["ok"] * 1000


async def test_client_that_leaves_makes_nobody_begin_anew(autojump_clock: MockClock) -> None:
    asked = 0

    async def write() -> None:
        nonlocal asked
        asked += 1
        await trio.sleep(1)

    readiness = Readiness()
    readiness.add("write", write, kept_seconds=5)
    with trio.fail_after(10):
        for _ in range(50):
            with trio.move_on_after(0.1):
                await readiness.report()
        assert (await readiness.report()).ready
    assert asked == 1


async def test_database_that_hangs_keeps_nobody_waiting_for_long(autojump_clock: MockClock) -> None:
    readiness = Readiness(check_timeout_seconds=2)
    readiness.add("write", trio.sleep_forever, kept_seconds=5)
    took: list[float] = []

    async def probe(after: float) -> None:
        await trio.sleep(after)
        begun = trio.current_time()
        report = await readiness.report()
        took.append(trio.current_time() - begun)
        assert report.checks == {"write": "no answer within 2 s"}
        assert not report.ready

    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon(probe, n * 0.1)
    assert max(took) <= 4.1


@pytest.mark.parametrize(
    ("bots", "status", "said"),
    [
        ({}, "ok", "ok"),
        ({"live": 3, "standby": 1, "connecting": 1, "http": 1, "revoked": 2, "deaf": 0}, "ok", "ok"),
        ({"live": 3, "deaf": 1}, "degraded", "1 deaf"),
        (
            {"degraded": 2, "refused": 1, "unreadable_secret": 1},
            "degraded",
            "1 refused, 1 unreadable_secret, 2 degraded",
        ),
    ],
)
async def test_bots_that_are_not_well_are_told_in_numbers_and_take_no_traffic_away(
    bots: dict[str, int], status: str, said: str
) -> None:
    readiness = Readiness(lambda: bots)
    readiness.add("database", good)
    report = await readiness.report()
    assert report.ready
    assert (report.status, report.checks) == (status, {"database": "ok", "bots": said})
    assert report.bots == {state: count for state, count in bots.items() if count}


async def test_process_that_cannot_work_is_unavailable_whatever_its_bots_do() -> None:
    readiness = Readiness(lambda: {"deaf": 1})

    async def full() -> str:
        return "the disk of the database is full"

    readiness.add("write", full)
    report = await readiness.report()
    assert (report.status, report.ready) == ("unavailable", False)
