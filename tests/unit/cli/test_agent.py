from __future__ import annotations

from datetime import UTC, datetime

import httpx2
import pytest
import structlog
import trio

from gateway.cli.agent import (
    Completion,
    Failure,
    Refused,
    Server,
    TaskHead,
    _claimed,
    _is_loopback,
    _registered,
    _seconds_left,
    _to_stop,
    judge_end,
)
from gateway.cli.agent_process import Finished


def test_answer_is_stdout_without_its_last_line_break() -> None:
    assert judge_end(Finished(0, b"  hi\nthere\n\n", b"noise")) == Completion("  hi\nthere")


def test_answer_that_is_not_utf8_is_kept_as_far_as_it_is() -> None:
    assert judge_end(Finished(0, b"a\x00b\xff", b"")) == Completion("ab\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize(
    ("returncode", "words"),
    [(3, "exit status 3"), (-9, "ended by SIGKILL"), (-11, "ended by SIGSEGV"), (-200, "signal 200")],
)
def test_failure_names_how_the_program_ended(returncode: int, words: str) -> None:
    failure = judge_end(Finished(returncode, b"half an answer", b"why\x00\n"))
    assert isinstance(failure, Failure)
    assert words in failure.error
    assert failure.error.endswith("\nwhy")
    assert "half an answer" not in failure.error


def test_reply_without_end_is_a_failure() -> None:
    assert judge_end(Finished(-15, b"x" * 10, b"", overflowed=True)) == Failure(
        "the reply is too long: more than 10 bytes", "agent_error.empty_or_unparseable_output"
    )


def test_deadline_is_counted_by_the_servers_clock() -> None:
    head = TaskHead("id", 1, datetime(2001, 1, 1, 0, 1, tzinfo=UTC))
    answer = httpx2.Response(200, headers={"Date": "Mon, 01 Jan 2001 00:00:00 GMT"})
    assert _seconds_left(head, answer) == 60
    assert _seconds_left(head, httpx2.Response(200)) == 0


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost", True),
        ("https://gateway.example.org", False),
        ("http://10.0.0.1", False),
    ],
)
def test_loopback_is_told_from_the_rest(url: str, loopback: bool) -> None:
    assert _is_loopback(url) is loopback


DEADLINE = "2026-01-01T00:00:30Z"
TASK = b'{"task":{"id":"t","attempt":1,"deadline":"%s"}}' % DEADLINE.encode()


def answering(*bodies: bytes) -> tuple[Server, list[bytes]]:
    """A server whose answers are these, one after the other, all of them 200; and what is left of them."""
    left = list(bodies)

    async def answer(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=left.pop(0), headers={"Date": "Thu, 01 Jan 2026 00:00:00 GMT"})

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer), base_url="http://gateway.example")
    return Server(http), left


STRANGE = [
    b"", b"<html>", b"null", b"[]", b'"ok"', b"1", b"\xff\xfe", b"[" * 100_000, b"{}", b'{"task":{}}', b'{"task":[1]}',
    b'{"task":{"id":1,"attempt":1,"deadline":"2026-01-01T00:00:30Z"}}',
    b'{"task":{"id":"t","attempt":1,"deadline":"2026-01-01T00:00:30"}}',
    b'{"task":{"id":"t","attempt":1,"deadline":"soon"}}',
]  # fmt: skip


async def test_claim_that_something_else_answers_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    server, left = answering(*STRANGE, TASK)
    with structlog.testing.capture_logs() as logs, trio.fail_after(3_600):
        claimed = await server.ask("/claim", _claimed)
    assert claimed is not None
    assert (claimed.head.id, claimed.seconds, left) == ("t", 30.0, [])
    assert [entry["event"] for entry in logs] == ["server_away"] * len(STRANGE)
    assert max(entry["retry_seconds"] for entry in logs) > 5


async def test_heartbeat_that_something_else_answers_is_sent_again(autojump_clock: trio.testing.MockClock) -> None:
    server, left = answering(b"<html>", b"[]", b'{"stop":1}', b'{"stop":["t"]}')
    with trio.fail_after(3_600):
        assert await server.ask("/heartbeat", _to_stop) == ["t"]
    assert left == []


async def test_report_is_sent_again_until_a_gateway_takes_it(autojump_clock: trio.testing.MockClock) -> None:
    server, left = answering(b"<html>", b'{"status":"completed"}')
    with trio.fail_after(3_600):
        await server.post("/complete", Completion("an answer"))
    assert left == []


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b"[" * 100_000, b"{}"])
async def test_registration_with_something_else_is_refused_at_once(body: bytes) -> None:
    server, _ = answering(body)
    with pytest.raises(Refused, match="is it a gateway"):
        await server.ask("/register", _registered)


def test_date_without_a_zone_is_read_as_utc() -> None:
    answer = httpx2.Response(200, headers={"Date": "Thu, 01 Jan 2026 00:00:00 -0000"})
    head = TaskHead("t", 1, datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC))
    assert _seconds_left(head, answer) == 30.0
