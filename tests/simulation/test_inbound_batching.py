"""How messages share a statement, in logical time: the store takes exactly as long as the test says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import wraps
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.errors import RemoteProtocolError, StoreConflict, StoreUnavailable
from gateway.inbound.committer import Committer, run_committer
from gateway.inbound.ports import PlainMessage
from gateway.work.tasks.sessions import Queueing


def bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A deadlock would let an automatic clock wait for ever."""

    @wraps(test)
    async def within(*arguments: Any, **named: Any) -> None:
        with trio.fail_after(1000):
            await test(*arguments, **named)

    return within


class SlowStore:
    """Takes `seconds` for each statement and remembers what shared it; `judge` may raise or refuse."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.statements: list[list[str]] = []
        self.judge: Callable[[list[str]], Awaitable[None]] | None = None
        self.refused: set[str] = set()

    async def ingest(self, messages: Sequence[PlainMessage]) -> Mapping[UUID, Queueing]:
        ids = [message.message_id for message in messages]
        self.statements.append(ids)
        await trio.sleep(self.seconds)
        if self.judge is not None:
            await self.judge(ids)
        return {message.token: Queueing.QUEUED for message in messages if message.message_id not in self.refused}


class Submissions:
    """Submitters by message id, with the moment each was told and what."""

    def __init__(self, committer: Committer, nursery: trio.Nursery) -> None:
        self._committer = committer
        self._nursery = nursery
        self.told: dict[str, tuple[float, object]] = {}
        self.one_more = trio.Event()
        self.scopes: dict[str, trio.CancelScope] = {}

    async def submit(self, *ids: str) -> None:
        """Hand in messages, in this order, and return when all of them wait."""
        for message_id in ids:
            self._nursery.start_soon(self._submit, message_id)
            await wait_all_tasks_blocked()

    async def _submit(self, message_id: str) -> None:
        message = PlainMessage(uuid4(), "feishu", "cli_a", message_id, "oc", "ou", "", "text", None)
        with trio.CancelScope() as self.scopes[message_id]:
            answer: object
            try:
                answer = await self._committer.submit(message)
            except Exception as error:
                answer = error
            self.told[message_id] = (trio.current_time(), answer)
            self.one_more.set()


@pytest.fixture
async def store() -> SlowStore:
    return SlowStore()


@pytest.fixture
async def committer() -> Committer:
    return Committer()


@pytest.fixture
async def submissions(store: SlowStore, committer: Committer, nursery: trio.Nursery) -> Submissions:
    await nursery.start(run_committer, committer, store)
    return Submissions(committer, nursery)


async def _told(submissions: Submissions, count: int) -> None:
    while len(submissions.told) < count:
        submissions.one_more = trio.Event()
        await submissions.one_more.wait()


@bounded
async def test_lone_message_is_not_held_back_for_company(
    submissions: Submissions, store: SlowStore, autojump_clock: MockClock
) -> None:
    start = trio.current_time()
    await submissions.submit("a")
    await _told(submissions, 1)
    assert submissions.told["a"] == (start + 1, Queueing.QUEUED)
    assert store.statements == [["a"]]


@bounded
async def test_messages_that_arrive_during_a_statement_share_the_next_in_order(
    submissions: Submissions, store: SlowStore, autojump_clock: MockClock
) -> None:
    await submissions.submit("a", "b", "c", "d")
    await _told(submissions, 4)
    assert store.statements == [["a"], ["b", "c", "d"]]
    assert submissions.told["b"][0] == submissions.told["d"][0] == submissions.told["a"][0] + 1


@bounded
async def test_statement_takes_64_messages_at_most(
    submissions: Submissions, store: SlowStore, autojump_clock: MockClock
) -> None:
    await submissions.submit(*[str(number) for number in range(71)])
    await _told(submissions, 71)
    assert [len(statement) for statement in store.statements] == [1, 64, 6]


@bounded
async def test_message_that_was_not_taken_in_is_told_so(
    submissions: Submissions, store: SlowStore, autojump_clock: MockClock
) -> None:
    store.refused = {"b"}
    await submissions.submit("a", "b", "c")
    await _told(submissions, 3)
    assert [submissions.told[key][1] for key in "abc"] == [Queueing.QUEUED, None, Queueing.QUEUED]


@bounded
async def test_waiter_cancelled_before_its_statement_is_taken_back(
    submissions: Submissions, store: SlowStore, autojump_clock: MockClock
) -> None:
    await submissions.submit("a", "b", "c")
    submissions.scopes["b"].cancel()
    await _told(submissions, 2)
    assert store.statements == [["a"], ["c"]]


@bounded
async def test_waiter_cancelled_during_its_statement_does_not_disturb_the_others(
    submissions: Submissions, store: SlowStore, autojump_clock: MockClock
) -> None:
    await submissions.submit("a", "b", "c")
    await trio.sleep(1.5)
    submissions.scopes["b"].cancel()
    await _told(submissions, 2)
    assert store.statements == [["a"], ["b", "c"]]
    assert submissions.told["c"][1] is Queueing.QUEUED


@bounded
async def test_poison_message_fails_alone(
    submissions: Submissions, store: SlowStore, autojump_clock: MockClock
) -> None:
    async def judge(ids: list[str]) -> None:
        if "5" in ids:
            raise RemoteProtocolError("poison")

    store.judge = judge
    await submissions.submit("a", *[str(number) for number in range(8)])
    await _told(submissions, 9)
    failed = {key for key, (_, answer) in submissions.told.items() if isinstance(answer, RemoteProtocolError)}
    assert failed == {"5"}
    assert all(answer is Queueing.QUEUED for key, (_, answer) in submissions.told.items() if key not in failed)
    assert store.statements[1:] == [
        [str(number) for number in range(8)],
        ["0", "1", "2", "3"],
        ["4", "5", "6", "7"],
        ["4", "5"],
        ["4"],
        ["5"],
        ["6", "7"],
    ]


@bounded
async def test_store_that_is_away_fails_the_whole_batch_once_and_the_next_is_tried(
    submissions: Submissions, store: SlowStore, autojump_clock: MockClock
) -> None:
    async def away(_ids: list[str]) -> None:
        raise StoreUnavailable("away")

    store.judge = away
    await submissions.submit("a", "b", "c")
    await _told(submissions, 3)
    errors = [answer for _, answer in submissions.told.values()]
    assert [type(error) for error in errors] == [StoreUnavailable] * 3
    assert len({id(error) for error in errors}) == 3
    assert store.statements == [["a"], ["b", "c"]]
    store.judge = None
    await submissions.submit("d")
    await _told(submissions, 4)
    assert submissions.told["d"][1] is Queueing.QUEUED


@bounded
async def test_committer_that_stops_leaves_nobody_waiting(
    store: SlowStore, committer: Committer, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as submitters:
        submissions = Submissions(committer, submitters)
        async with trio.open_nursery() as nursery:
            await nursery.start(run_committer, committer, store)
            await submissions.submit("a", "b")
            nursery.cancel_scope.cancel()
        await submissions.submit("c")
    assert {key: type(answer) for key, (_, answer) in submissions.told.items()} == dict.fromkeys(
        "abc", StoreUnavailable
    )


@bounded
async def test_committer_cancelled_while_it_halves_a_batch_leaves_nobody_waiting(
    store: SlowStore, committer: Committer, autojump_clock: MockClock
) -> None:
    async def poison(ids: list[str]) -> None:
        if len(ids) > 1:
            raise RemoteProtocolError("poison")

    store.judge = poison
    async with trio.open_nursery() as submitters:
        submissions = Submissions(committer, submitters)
        async with trio.open_nursery() as nursery:
            await nursery.start(run_committer, committer, store)
            await submissions.submit("a", "b", "c", "d", "e")
            await trio.sleep(3.5)
            nursery.cancel_scope.cancel()
    assert len(submissions.told) == 5
    assert isinstance(submissions.told["e"][1], StoreUnavailable)


@bounded
async def test_more_submitters_than_may_wait_are_let_in_as_room_comes(
    store: SlowStore, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    committer = Committer(waiting_max=2)
    await nursery.start(run_committer, committer, store)
    submissions = Submissions(committer, nursery)
    await submissions.submit(*[str(number) for number in range(9)])
    await _told(submissions, 9)
    assert [message_id for statement in store.statements for message_id in statement] == [
        str(number) for number in range(9)
    ]


@bounded
async def test_batch_that_somebody_stands_in_the_way_of_goes_the_long_way_at_once(
    submissions: Submissions, store: SlowStore, autojump_clock: MockClock
) -> None:
    """To halve it would wait for the same row again for each half, while every bot waits for its acknowledgements."""

    async def judge(ids: list[str]) -> None:
        if "c" in ids:
            raise StoreConflict("canceling statement due to lock timeout")

    store.judge = judge
    await submissions.submit("a", "b", "c", "d", "e")
    await _told(submissions, 5)
    assert store.statements == [["a"], ["b", "c", "d", "e"]]
    assert [submissions.told[key][1] for key in "abcde"] == [Queueing.QUEUED, None, None, None, None]


async def test_committer_cancelled_while_it_gathers_leaves_nobody_waiting(store: SlowStore) -> None:
    committer = Committer()
    with trio.fail_after(5):
        async with trio.open_nursery() as submitters:
            submissions = Submissions(committer, submitters)
            async with trio.open_nursery() as nursery:
                await nursery.start(run_committer, committer, store)
                await wait_all_tasks_blocked()
                submitters.start_soon(submissions._submit, "a")
                # The message is handed over, and the committer has not got further than its look for more.
                while committer._batcher._receive.statistics().tasks_waiting_receive:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
    assert isinstance(submissions.told["a"][1], StoreUnavailable)
    assert store.statements == []
