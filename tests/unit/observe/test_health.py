"""Readiness: all checks, each within its bound."""

from __future__ import annotations

import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from gateway.errors import StoreUnavailable
from gateway.observe.health import Readiness


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

    readiness.add("database", check)
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
