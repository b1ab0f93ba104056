from __future__ import annotations

from datetime import UTC, datetime

import httpx2
import pytest

from gateway.cli.agent import Completion, Failure, TaskHead, _is_loopback, _seconds_left, judge_end
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
