from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import httpx2
import msgspec
import pytest
import structlog
import trio

from gateway.cli.agent_privacy import Secrets
from gateway.cli.agent_process import Finished
from gateway.cli.agent_server import Claimed, Refused, Rejected, Server, TaskHead, is_loopback, seconds_left
from gateway.cli.agent_worker import Completion, Failure, judge_end

SECRETS = Secrets("gwr_not-a-real-token", {"MODEL_KEY": "not-a-real-key", "SHORT": "why"})
TASK_ID = UUID(int=7)


def test_answer_is_stdout_without_its_last_line_break() -> None:
    assert judge_end(Finished(0, b"  hi\nthere\n\n", b"noise"), SECRETS) == Completion("  hi\nthere")


def test_answer_that_is_not_utf8_is_kept_as_far_as_it_is() -> None:
    assert judge_end(Finished(0, b"a\x00b\xff", b""), SECRETS) == Completion("ab\N{REPLACEMENT CHARACTER}")


def test_silence_comes_with_the_last_words_of_stderr() -> None:
    assert judge_end(Finished(0, b" \n", b"no key\x00 given\n"), SECRETS) == Completion("", "no key given")
    assert judge_end(Finished(0, b"", b"\n"), SECRETS) == Completion("")


def test_last_words_of_a_program_never_hold_what_it_was_given() -> None:
    words = b"why: key not-a-real-key, token gwr_not-a-real-token"
    for finished in (Finished(1, b"", words), Finished(0, b"", words)):
        report = judge_end(finished, SECRETS)
        assert report.stderr_tail == "why: key [hidden], token [hidden]"
        assert "not-a-real" not in repr(report)


@pytest.mark.parametrize(
    ("returncode", "words"),
    [(3, "exit status 3"), (-9, "ended by SIGKILL"), (-11, "ended by SIGSEGV"), (-200, "signal 200")],
)
def test_failure_names_how_the_program_ended(returncode: int, words: str) -> None:
    failure = judge_end(Finished(returncode, b"half an answer", b"why\x00\n"), SECRETS)
    assert isinstance(failure, Failure)
    assert words in failure.error
    assert failure.error.endswith("\nwhy")
    assert failure.stderr_tail == "why"
    assert "half an answer" not in failure.error


@pytest.mark.parametrize(
    "said", [b"x" * 901_000, b'"' * 600_000, "漢\U0001f600\x01".encode() * 200_000, b"a\n" * 500_000]
)
def test_reply_that_is_too_long_is_cut_with_a_mark(said: bytes) -> None:
    report = judge_end(Finished(0, said, b"", len(said)), SECRETS)
    assert isinstance(report, Completion)
    assert report.output.endswith(f"\n\n[shortened: the program wrote {len(said):,} bytes]")
    assert 890_000 < len(msgspec.json.encode(report.output)) < 901_000


def test_reply_without_end_is_a_failure() -> None:
    assert judge_end(Finished(-15, b"x" * 10, b"", 70_000_000, endless=True), SECRETS) == Failure(
        "the program was ended after 70,000,000 bytes of output", "agent_error.empty_or_unparseable_output"
    )


def test_reply_of_which_only_the_beginning_was_kept_is_marked() -> None:
    report = judge_end(Finished(0, b"beginning", b"", 5_000_000), SECRETS)
    assert report == Completion("beginning\n\n[shortened: the program wrote 5,000,000 bytes]")


def test_reply_is_what_a_terminal_would_show() -> None:
    assert judge_end(Finished(0, b"\x1b[32mOK\x1b[0m\n", b"", 12), SECRETS) == Completion("OK")


def test_deadline_is_counted_by_the_servers_clock() -> None:
    head = TaskHead(TASK_ID, 1, datetime(2001, 1, 1, 0, 1, tzinfo=UTC))
    assert seconds_left(head, "Mon, 01 Jan 2001 00:00:00 GMT") == 60


@pytest.mark.parametrize("date", ["", "soon", "Thu, 01 Jan 2026 99:00:00", f"Thu, 01 Jan 2026 00:00:00 +{'9' * 30}"])
def test_date_that_says_nothing_is_this_machines(date: str) -> None:
    assert seconds_left(TaskHead(TASK_ID, 1, datetime(2001, 1, 1, tzinfo=UTC)), date) == 0


def test_date_without_a_zone_is_read_as_utc() -> None:
    head = TaskHead(TASK_ID, 1, datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC))
    assert seconds_left(head, "Thu, 01 Jan 2026 00:00:00 -0000") == 30.0


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
    assert is_loopback(url) is loopback


DEADLINE = "2026-01-01T00:00:30Z"
TASK = f'{{"task":{{"id":"{TASK_ID}","attempt":1,"deadline":"{DEADLINE}"}}}}'.encode()
DATE = {"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}
OK = b'{"status":"ok"}'
Said = bytes | tuple[int, bytes] | Exception


class Place:
    """An address whose answers are these, one after the other; what is left of them, and what it was asked."""

    def __init__(self, *said: Said) -> None:
        self.left = list(said)
        self.asked: list[tuple[str, bytes]] = []

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append((request.url.path, request.content))
        await trio.lowlevel.checkpoint()
        said = self.left.pop(0)
        if isinstance(said, Exception):
            raise said
        status, content = said if isinstance(said, tuple) else (200, said)
        return httpx2.Response(status, content=content, headers=DATE)


def at(*places: Place) -> Server:
    return Server(
        [
            httpx2.AsyncClient(transport=httpx2.MockTransport(place.answer), base_url="http://gateway.example")
            for place in places
        ]
    )


STRANGE: list[Said] = [
    b"", b"<html>", b"null", b"[]", b'"ok"', b"1", b"\xff\xfe", b"[" * 100_000, b"{}", b'{"task":{}}', b'{"task":[1]}',
    b'{"task":{"id":1,"attempt":1,"deadline":"2026-01-01T00:00:30Z"}}',
    b'{"task":{"id":"../../me","attempt":1,"deadline":"2026-01-01T00:00:30Z"}}',
    TASK.replace(b"30Z", b"30"), TASK.replace(DEADLINE.encode(), b"soon"),
    (301, b""), (400, b"<html>"), (401, b"<html>sign in</html>"), (403, b'{"error":"no"}'), (404, b"not found"),
    (409, b"[]"), (429, b""), (500, b"{}"), (502, b"<html>"), (204, b""),
    httpx2.ConnectError("refused"), httpx2.ReadTimeout("slow"), httpx2.RemoteProtocolError("garbage"),
    httpx2.DecodingError("bad gzip"),
]  # fmt: skip


async def test_claim_that_something_else_answers_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    place = Place(*STRANGE, TASK)
    with structlog.testing.capture_logs() as logs, trio.fail_after(3_600):
        claimed = await at(place).claim(UUID(int=1), "me", 30)
    assert claimed is not None
    assert (claimed.head.key, claimed.seconds, place.left) == (Claimed(TASK_ID, 1), 30.0, [])
    assert [entry["event"] for entry in logs] == ["server_away"] * len(STRANGE)
    assert max(entry["retry_seconds"] for entry in logs) > 5


async def test_heartbeat_that_something_else_answers_is_sent_again(autojump_clock: trio.testing.MockClock) -> None:
    stop = f'{{"stop":[{{"id":"{TASK_ID}","attempt":2}}]}}'.encode()
    place = Place(b"<html>", b"[]", b'{"stop":1}', b'{"stop":["t"]}', (404, b"<html>"), (401, b""), stop)
    with trio.fail_after(3_600):
        stopped = await at(place).heartbeat(UUID(int=1), [Claimed(TASK_ID, 1)])
    assert (stopped, place.left) == ([Claimed(TASK_ID, 2)], [])
    assert place.asked[-1][1] == f'{{"tasks":[{{"id":"{TASK_ID}","attempt":1}}]}}'.encode()


async def test_report_is_sent_again_until_a_gateway_takes_it(autojump_clock: trio.testing.MockClock) -> None:
    place = Place(b"<html>", b"{}", b'{"status":"completed"}')
    with trio.fail_after(3_600):
        assert await at(place).report(Claimed(TASK_ID, 3), "complete", output="an answer") == "completed"
    assert place.asked == [(f"/api/tasks/{TASK_ID}/complete", b'{"attempt":3,"output":"an answer"}')] * 3


@pytest.mark.parametrize("said", [b"<html>", b"\xff", b"[" * 100_000, b"{}", (404, b"<html>"), (401, b"")])
async def test_registration_with_something_else_is_refused_at_once(said: Said) -> None:
    with pytest.raises(Refused, match="is it a gateway"):
        await at(Place(said)).register({})


async def test_no_of_a_gateway_is_taken_for_one() -> None:
    no = b'{"error":"no such task","code":"not_found"}'
    with pytest.raises(Rejected, match="no such task"):
        await at(Place((404, no))).report(Claimed(TASK_ID, 1), "start")
    for call in (at(Place((404, no))).claim(UUID(int=1), "me", 0), at(Place((401, no))).heartbeat(UUID(int=1), [])):
        with pytest.raises(Refused):
            await call


async def test_answer_without_end_is_somebody_elses(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.agent_server.ANSWER_BYTES_MAX", 100)
    place = Place(b"x" * 101, TASK.ljust(100))
    place.left[1:] = [OK]
    with trio.fail_after(3_600):
        await at(place).report(Claimed(TASK_ID, 1), "start")
    assert place.left == []


# Several addresses


async def test_next_address_is_used_at_once_while_one_is_away_and_for_as_long_as_it_answers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    first, second = Place(OK, httpx2.ConnectError("refused")), Place(OK, OK)
    server, began = at(first, second), trio.current_time()
    for action in ("start", "progress", "complete"):
        await server.report(Claimed(TASK_ID, 1), action)
    assert trio.current_time() == began
    assert [path.rpartition("/")[2] for path, _ in first.asked] == ["start", "progress"]
    assert [path.rpartition("/")[2] for path, _ in second.asked] == ["progress", "complete"]


async def test_addresses_that_are_all_away_are_tried_in_rounds(autojump_clock: trio.testing.MockClock) -> None:
    away = httpx2.ConnectError("refused")
    first, second = Place(away, away, OK), Place(away, away)
    with structlog.testing.capture_logs() as logs, trio.fail_after(60):
        await at(first, second).report(Claimed(TASK_ID, 1), "start")
    assert [bool(entry["retry_seconds"]) for entry in logs] == [False, True, False, True]
    assert (first.left, second.left) == ([], [])


async def test_calls_that_fail_together_move_on_by_one_address(autojump_clock: trio.testing.MockClock) -> None:
    away = httpx2.ConnectError("refused")
    first, second = Place(away, away), Place(OK, OK)
    server = at(first, second)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(server.report, Claimed(TASK_ID, 1), "start")
    assert (first.left, second.left) == ([], [])


async def test_registration_passes_over_an_address_that_is_no_gateways(autojump_clock: trio.testing.MockClock) -> None:
    runtime = f'{{"id":"{UUID(int=1)}","name":"machine"}}'.encode()
    assert (await at(Place(b"<html>"), Place(runtime)).register({})).name == "machine"
    with pytest.raises(Refused, match="is it a gateway"):
        await at(Place(b"<html>"), Place((404, b""))).register({})
    # One that is only away may still be it.
    with trio.fail_after(60):
        await at(Place(b"<html>", b"<html>"), Place((503, b""), runtime)).register({})
