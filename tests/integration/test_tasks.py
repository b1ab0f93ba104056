"""Tasks on a real Postgres: every message is answered by exactly one run, whatever happens in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import trio

from gateway.concurrency import watch_points
from gateway.core.replies import WORDS, Reply
from gateway.errors import Conflict, NotFound, StoreConflict
from gateway.postgres.pool import Pool, open_pool
from gateway.work.people.directory import RuntimePrincipal
from gateway.work.tasks.ports import Attempt, ClaimedMessage, ConversationPlace, LossLimits
from gateway.work.tasks.tasks import AssignedTask, TaskService
from support.recording import Recording
from support.task_world import Session, World, hearing_events, open_world, ringing


async def claim(world: World, wait_seconds: float = 0) -> AssignedTask:
    assignment = await world.service.claim(world.runtime, world.runtime_id, wait_seconds)
    assert assignment is not None
    return assignment


async def claims_nothing(world: World) -> bool:
    return await world.service.claim(world.runtime, world.runtime_id) is None


def texts(assignment: AssignedTask) -> list[str]:
    return [message.text for message in assignment.messages]


# Claiming


async def test_claim_waiting_messages_are_handed_out_in_order(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "one")
    await world.say(session, "two")
    assignment = await claim(world)
    assert texts(assignment) == ["one", "two"]
    assert assignment.prompt == "one\n\ntwo"
    assert assignment.messages[0].author == "Ann"
    assert assignment.messages[0].age_seconds >= 0
    assert assignment.claim.agent_name == "agent"
    assert assignment.claim.attempt == 1


async def test_claim_not_yet_available_task_is_left_alone(pool: Pool) -> None:
    world = await open_world(pool)
    await world.say(await world.add_session(), "wait", window=60)
    assert await claims_nothing(world)


async def test_claim_command_message_is_not_part_of_the_run(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "/issue x", kind="channel_command")
    await world.say(session, "hello")
    assert texts(await claim(world)) == ["hello"]


async def test_claim_messages_of_two_generations_never_meet_in_one_run(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "before", generation=0)
    await world.say(session, "after", generation=1)
    first = await claim(world)
    assert texts(first) == ["before"]
    assert await claims_nothing(world)
    await world.service.start(world.runtime, first.claim.identity)
    await world.service.complete(world.runtime, first.claim.identity, "ok")
    assert texts(await claim(world)) == ["after"]


async def test_claim_goes_by_priority_then_age(pool: Pool) -> None:
    world = await open_world(pool)
    sessions = [await world.add_session() for _ in range(3)]
    for number, session in enumerate(sessions):
        await world.say(session, str(number))
    await world.sql("update agent_task set priority = 5 where chat_session_id = %(id)s", id=sessions[2].id)
    assert [texts(await claim(world)) for _ in range(3)] == [["2"], ["0"], ["1"]]


async def test_claim_of_an_archived_agent_finds_nothing(pool: Pool) -> None:
    world = await open_world(pool)
    await world.say(await world.add_session(), "hello")
    await world.sql("update agent set archived_at = now()")
    assert await claims_nothing(world)


async def test_claim_agent_moved_to_another_runtime_is_claimed_there(pool: Pool) -> None:
    world = await open_world(pool)
    other = await world.add_runtime(uuid4(), "other")
    await world.say(await world.add_session(), "hello")
    await world.sql("update agent set runtime_id = %(id)s", id=other.runtime_id)
    assert await claims_nothing(world)
    assert await world.service.claim(other, other.runtime_id) is not None


async def test_claim_agent_that_names_a_runtime_of_another_workspace_is_not_handed_out(pool: Pool) -> None:
    world, stranger = await open_world(pool), await open_world(pool)
    await world.say(await world.add_session(), "secret")
    await world.sql(
        "update agent set runtime_id = %(runtime)s where id = %(agent)s",
        runtime=stranger.runtime_id,
        agent=world.agent_id,
    )
    assert await claims_nothing(stranger)


async def test_claim_counts_as_a_heartbeat(pool: Pool) -> None:
    world = await open_world(pool)
    await claims_nothing(world)
    rows = await world.sql("select last_heartbeat_at > now() - interval '5 seconds' as fresh from agent_runtime")
    assert rows == [{"fresh": True}]


async def test_claim_with_another_runtimes_id_is_absent(pool: Pool) -> None:
    world = await open_world(pool)
    with pytest.raises(NotFound):
        await world.service.claim(world.runtime, uuid4())


async def test_claim_twenty_at_once_respects_the_capacity_and_hands_nothing_out_twice(database: str) -> None:
    async with open_pool(database, size_max=20) as pool:
        world = await open_world(pool, capacity=7)
        for number in range(20):
            await world.say(await world.add_session(), str(number))
        claimed: list[AssignedTask] = []

        async def claimer() -> None:
            assignment = await world.service.claim(world.runtime, world.runtime_id)
            if assignment is not None:
                claimed.append(assignment)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(claimer)
        assert len({assignment.claim.id for assignment in claimed}) == len(claimed) == 7


async def test_claim_session_with_an_active_run_waits_for_its_end(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    first = await world.running(session, "one")
    await world.say(session, "two")
    assert await claims_nothing(world)
    await world.service.complete(world.runtime, first.claim.identity, "done")
    assert texts(await claim(world)) == ["two"]


async def test_claim_every_message_of_a_stream_is_answered_by_exactly_one_run(database: str) -> None:
    async with open_pool(database, size_max=16) as pool:
        world = await open_world(pool)
        session = await world.add_session()
        answered: list[str] = []
        speaking = True

        async def speak(speaker: int) -> None:
            for number in range(15):
                await world.say(session, f"{speaker}.{number}")

        async def work() -> None:
            while speaking or not await claims_and_completes():
                await claims_and_completes()

        async def claims_and_completes() -> bool:
            assignment = await world.service.claim(world.runtime, world.runtime_id)
            if assignment is None:
                return True
            await world.service.start(world.runtime, assignment.claim.identity)
            answered.extend(texts(assignment))
            await world.service.complete(world.runtime, assignment.claim.identity, "ok")
            return False

        with trio.fail_after(60):
            async with trio.open_nursery() as workers:
                for _ in range(3):
                    workers.start_soon(work)
                async with trio.open_nursery() as speakers:
                    for speaker in range(4):
                        speakers.start_soon(speak, speaker)
                speaking = False
            while not await claims_and_completes():
                pass
        assert sorted(answered) == sorted(f"{speaker}.{number}" for speaker in range(4) for number in range(15))
        assert {task["status"] for task in await world.tasks()} == {"completed"}


# Waiting for work


async def test_long_poll_new_message_is_handed_out_at_once(pool: Pool, database: str) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    got: list[AssignedTask] = []

    async def poll() -> None:
        got.append(await claim(world, wait_seconds=30))

    with trio.fail_after(10):
        async with ringing(world, database), trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await world.say(session, "hello")
            await world.sql("select pg_notify('gateway_task', %(id)s)", id=str(world.runtime_id))
    assert texts(got[0]) == ["hello"]


async def test_long_poll_batch_window_is_waited_out_without_a_notification(pool: Pool) -> None:
    world = await open_world(pool)
    await world.say(await world.add_session(), "hello", window=0.3)
    with trio.fail_after(10):
        assert texts(await claim(world, wait_seconds=30)) == ["hello"]


async def test_long_poll_ends_empty_when_its_time_is_over(pool: Pool) -> None:
    world = await open_world(pool)
    with trio.fail_after(10):
        assert await world.service.claim(world.runtime, world.runtime_id, 0.05) is None


async def test_long_poll_holds_no_connection_while_it_waits(database: str) -> None:
    async with open_pool(database, size_max=1) as pool:
        world = await open_world(pool)
        session = await world.add_session()
        service = world.service
        with trio.fail_after(20):
            async with ringing(world, database), trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(service.claim, world.runtime, world.runtime_id, 30)
                await world.say(session, "hello")
                service.drain()


async def test_long_poll_cancelled_while_it_claims_loses_no_task(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "hello")
    with trio.CancelScope() as scope:
        watch_points(lambda point: scope.cancel() if point == "task.claimed" else None)
        try:
            await world.service.claim(world.runtime, world.runtime_id)
        finally:
            watch_points(None)
    await world.sql("update agent_task set dispatched_at = now() - interval '91 seconds' where status = 'dispatched'")
    await world.service.return_lost()
    assert texts(await claim(world)) == ["hello"]


# The end of a run


async def test_complete_leaves_one_answer_and_one_row_to_send(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    assignment = await world.running(session)
    assert await world.service.complete(world.runtime, assignment.claim.identity, "the answer") == "completed"
    assert await world.service.complete(world.runtime, assignment.claim.identity, "another") == "completed"
    assert await world.service.fail(world.runtime, assignment.claim.identity, "too late") == "completed"
    assert await world.answers(session) == ["the answer"]
    (row,) = await world.outbox()
    assert (row["kind"], row["content"], row["recipient_id"], row["status"]) == (
        "answer",
        "the answer",
        session.chat_id,
        "queued",
    )
    assert row["thread_id"] is None
    assert row["reply_to_message_id"] is None
    assert (await world.task(assignment.claim.id))["result"] == {"output": "the answer"}


async def test_complete_twice_at_the_same_time_leaves_one_answer(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    assignment = await world.running(session)
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(world.service.complete, world.runtime, assignment.claim.identity, str(number))
    assert len(await world.answers(session)) == len(await world.outbox()) == 1


async def test_complete_announces_the_chat_before_the_task(pool: Pool, database: str) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    async with hearing_events(database) as events:
        assignment = await world.running(session)
        await world.service.progress(world.runtime, assignment.claim.identity, "half way")
        await world.service.complete(world.runtime, assignment.claim.identity, "a secret answer")
    assert [event["event"] for event in events] == [
        "task:dispatch",
        "task:running",
        "task:progress",
        "chat:done",
        "task:completed",
    ]
    assert events[3]["message_id"]
    assert all(event["task_id"] == str(assignment.claim.id) for event in events)
    assert "secret" not in repr(events)


@pytest.mark.parametrize(
    ("output", "language"),
    [("", "en"), ("  \n", "zh-Hans"), ("\x00", "en"), ("\u200b\ufeff\n\u2060", "zh-Hans"), ("\u3164\u2800", "en")],
)
async def test_complete_without_words_says_so_in_one_line(pool: Pool, output: str, language: str) -> None:
    world = await open_world(pool, language=language)
    session = await world.add_session()
    assignment = await world.running(session)
    for _ in range(2):
        await world.service.complete(world.runtime, assignment.claim.identity, output)
    assert await world.answers(session) == []
    (row,) = await world.outbox()
    assert (row["kind"], row["task_id"], row["recipient_id"]) == ("notice", assignment.claim.id, session.chat_id)
    assert row["content"] == WORDS[language][Reply.NO_ANSWER]


async def test_complete_without_words_where_nobody_chats_says_nothing(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session(bound=False)
    assignment = await world.running(session)
    await world.service.complete(world.runtime, assignment.claim.identity, "")
    assert await world.outbox() == []


async def test_complete_output_with_nul_is_stored_without_it(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    assignment = await world.running(session)
    await world.service.complete(world.runtime, assignment.claim.identity, "a\x00b\ud800")
    assert await world.answers(session) == ["ab\ufffd"]


async def test_complete_topic_is_answered_inside_the_topic(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session(thread_id="omt_1", config={"chat_id": "oc_real"})
    assignment = await world.running(session)
    await world.service.complete(world.runtime, assignment.claim.identity, "hi")
    (row,) = await world.outbox()
    assert (row["recipient_id"], row["thread_id"], row["reply_to_message_id"]) == ("oc_real", "omt_1", "om_last")


@pytest.mark.parametrize("situation", ["unbound", "revoked"])
async def test_complete_without_a_bot_to_speak_keeps_the_answer_only(pool: Pool, situation: str) -> None:
    world = await open_world(pool)
    session = await world.add_session(bound=situation != "unbound")
    if situation == "revoked":
        await world.sql("update channel_installation set status = 'revoked'")
    assignment = await world.running(session)
    await world.service.complete(world.runtime, assignment.claim.identity, "hi")
    assert await world.answers(session) == ["hi"]
    assert await world.outbox() == []


async def test_complete_crashed_before_commit_leaves_nothing(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    assignment = await world.running(session)

    def crash(point: str) -> None:
        if point == "task.completing":
            raise RuntimeError("crash")

    watch_points(crash)
    try:
        with pytest.raises(RuntimeError, match="crash"):
            await world.service.complete(world.runtime, assignment.claim.identity, "hi")
    finally:
        watch_points(None)
    assert await world.answers(session) == []
    assert await world.outbox() == []
    assert (await world.task(assignment.claim.id))["status"] == "running"


async def test_complete_that_meets_a_deadlock_is_tried_again(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    assignment = await world.running(session)
    victims = 1

    def meet(point: str) -> None:
        nonlocal victims
        if point == "task.completing" and victims:
            victims -= 1
            raise StoreConflict("deadlock detected")

    watch_points(meet)
    try:
        assert await world.service.complete(world.runtime, assignment.claim.identity, "hi") == "completed"
    finally:
        watch_points(None)
    assert await world.answers(session) == ["hi"]
    assert len(await world.outbox()) == 1


async def test_fail_for_good_tells_the_person_once_without_internals(pool: Pool, database: str) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    assignment = await world.running(session)
    async with hearing_events(database) as events:
        status = await world.service.fail(world.runtime, assignment.claim.identity, "odd: secret.py\x00", "made_up")
    assert status == "failed"
    await world.service.fail(world.runtime, assignment.claim.identity, "again")
    (row,) = await world.outbox()
    assert row["kind"] == "error"
    assert row["content"] == "Sorry, I could not answer this: the agent failed. Please send it again."
    task = await world.task(assignment.claim.id)
    assert (task["failure_reason"], task["error"]) == ("agent_error.unknown", "odd: secret.py")
    assert await world.answers(session) == []
    assert [event["event"] for event in events] == ["task:failed"]
    assert events[0]["retry_pending"] is False
    assert "secret" not in repr(events)


async def test_fail_in_a_chinese_workspace_apologises_in_chinese(pool: Pool) -> None:
    world = await open_world(pool, language="zh-Hans")
    assignment = await world.running(await world.add_session())
    await world.service.fail(world.runtime, assignment.claim.identity, "x")
    assert "抱歉" in (await world.outbox())[0]["content"]


async def test_fail_that_another_attempt_may_mend_goes_back_to_the_queue(pool: Pool, database: str) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    assignment = await world.running(session)
    async with hearing_events(database) as events:
        assert (
            await world.service.fail(world.runtime, assignment.claim.identity, "gone", "runtime_recovery") == "queued"
        )
    assert [(event["event"], event.get("retry_pending")) for event in events] == [
        ("task:failed", True),
        ("task:queued", None),
    ]
    assert "error" not in events[0]
    assert await world.outbox() == []
    await world.say(session, "and this")
    again = await claim(world)
    assert again.claim.id == assignment.claim.id
    assert again.claim.attempt == 2
    assert texts(again) == ["hello", "and this"]


async def test_fail_without_a_reason_is_read_from_the_error_and_retried_at_once_then_later(pool: Pool) -> None:
    world = await open_world(pool)
    assignment = await world.running(await world.add_session())
    words = "API Error: Connection error."
    assert await world.service.fail(world.runtime, assignment.claim.identity, words) == "queued"
    assert (await world.task(assignment.claim.id))["failure_reason"] == "agent_error.provider_network"
    again = await claim(world)
    assert again.claim.attempt == 2
    assert await world.service.fail(world.runtime, again.claim.identity, words) == "queued"
    assert await claims_nothing(world)


async def test_fail_on_the_last_attempt_is_final(pool: Pool) -> None:
    world = await open_world(pool)
    assignment = await world.running(await world.add_session())
    await world.sql("update agent_task set attempt = 3")
    last = await world.attempt(assignment.claim.id)
    assert await world.service.fail(world.runtime, last, "x", "timeout") == "failed"
    assert len(await world.outbox()) == 1


async def test_fail_with_a_waiting_sibling_hands_its_messages_over(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    assignment = await world.running(session, "one")
    sibling = await world.say(session, "two")
    assert await world.service.fail(world.runtime, assignment.claim.identity, "x", "timeout") == "cancelled"
    merged = await claim(world)
    assert merged.claim.id == sibling
    assert texts(merged) == ["one", "two"]
    assert await world.outbox() == []


async def test_fail_again_and_again_while_a_run_always_waits_comes_to_an_end(pool: Pool) -> None:
    """The messages of a later generation wait in a run of their own, into which each failed run is merged."""
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "poison", generation=0)
    await world.say(session, "later", generation=1)
    attempts: list[int] = []
    status = ""
    while status != "failed" and len(attempts) < 10:
        assignment = await claim(world)
        assert texts(assignment) == ["poison"]
        attempts.append(assignment.claim.attempt)
        await world.service.start(world.runtime, assignment.claim.identity)
        status = await world.service.fail(world.runtime, assignment.claim.identity, "x", "runtime_recovery")
    assert attempts == [1, 2, 3]
    assert [row["kind"] for row in await world.outbox()] == ["error"]
    rest = await claim(world)
    assert (texts(rest), rest.claim.attempt) == (["later"], 1)


async def test_lost_claim_answer_of_a_merged_run_costs_no_attempt(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "one")
    await claim(world)
    await world.say(session, "two")
    await world.sql("update agent_task set dispatched_at = now() - interval '91 seconds' where status = 'dispatched'")
    assert await world.service.return_lost() == 1
    merged = await claim(world)
    assert (texts(merged), merged.claim.attempt) == (["one", "two"], 1)


@pytest.mark.parametrize("action", ["start", "progress", "complete"])
async def test_report_in_the_wrong_status_is_a_conflict(pool: Pool, action: str) -> None:
    world = await open_world(pool)
    task_id = await world.say(await world.add_session(), "hello")
    with pytest.raises(Conflict):
        await call(world, action, world.runtime, await world.attempt(task_id))


@pytest.mark.parametrize("action", ["start", "progress", "complete", "fail", "find"])
async def test_report_on_a_foreign_task_is_absent(pool: Pool, action: str) -> None:
    world, stranger = await open_world(pool), await open_world(pool)
    sibling = await world.add_runtime(uuid4(), "other")
    assignment = await world.running(await world.add_session())
    for principal in (stranger.runtime, sibling):
        with pytest.raises(NotFound):
            await call(world, action, principal, assignment.claim.identity)
    with pytest.raises(NotFound):
        await call(world, action, world.runtime, Attempt(uuid4(), 1))


async def call(world: World, action: str, runtime: RuntimePrincipal, attempt: Attempt) -> Any:
    if action == "find":
        return await world.service.find(runtime, attempt.task_id)
    arguments = () if action == "start" else ("x",)
    return await getattr(world.service, action)(runtime, attempt, *arguments)


async def test_ended_runs_are_counted_once_with_their_length(pool: Pool) -> None:
    world = await open_world(pool)
    recorder = Recording()
    service = TaskService(world.store, world.queue, recorder=recorder)
    done, retried, failed = [await world.running(await world.add_session()) for _ in range(3)]
    for _ in range(2):
        await service.complete(world.runtime, done.claim.identity, "ok")
    await service.fail(world.runtime, retried.claim.identity, "x", "timeout")
    await service.fail(world.runtime, failed.claim.identity, "x")
    assert recorder.seen("agent_task_terminal") == [("chat", "completed"), ("chat", "failed")]
    assert recorder.seen("agent_task_run_seconds") == [("chat",)] * 2
    assert min(recorder.values("agent_task_run_seconds")) >= 0


# Lost tasks


async def test_silent_runtime_running_task_returns_to_the_queue(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    assignment = await world.running(session)
    assert await world.service.return_lost() == 0
    await world.silence_runtime()
    assert await world.service.return_lost() == 1
    assert await world.outbox() == []
    again = await claim(world)
    assert (again.claim.id, again.claim.attempt, texts(again)) == (assignment.claim.id, 2, ["hello"])


async def test_silent_runtime_that_comes_back_cannot_answer_twice(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    assignment = await world.running(session)
    await world.silence_runtime()
    await world.service.return_lost()
    with pytest.raises(Conflict):
        await world.service.complete(world.runtime, assignment.claim.identity, "late")
    again = await claim(world)
    await world.service.start(world.runtime, again.claim.identity)
    await world.service.complete(world.runtime, again.claim.identity, "answer")
    assert await world.answers(session) == ["answer"]


async def test_silent_runtime_for_the_third_time_is_one_visible_failure(pool: Pool) -> None:
    world = await open_world(pool)
    await world.running(await world.add_session())
    await world.sql("update agent_task set attempt = max_attempts")
    await world.silence_runtime()
    await world.service.return_lost()
    assert ["offline" in row["content"] for row in await world.outbox()] == [True]


async def test_lost_claim_answer_returns_without_costing_an_attempt(pool: Pool) -> None:
    world = await open_world(pool)
    await world.say(await world.add_session(), "hello")
    first = await claim(world)
    await world.sql("update agent_task set dispatched_at = now() - interval '89 seconds'")
    assert await world.service.return_lost() == 0
    await world.sql("update agent_task set dispatched_at = now() - interval '91 seconds'")
    assert await world.service.return_lost() == 1
    again = await claim(world)
    assert (again.claim.id, again.claim.attempt) == (first.claim.id, 2)
    assert (await world.task(again.claim.id))["forgiven"] == 1


async def tries_of(world: World) -> int:
    """The tries that count of the one task that has not ended."""
    rows = await world.sql(
        "select attempt - forgiven as tries from agent_task where status in ('queued', 'dispatched')"
    )
    (tries,) = (int(row["tries"]) for row in rows)
    return tries


async def _let_down(world: World) -> AssignedTask:
    """A claim that is not started in time."""
    assignment = await claim(world)
    await world.sql("update agent_task set dispatched_at = now() - interval '91 seconds' where status = 'dispatched'")
    assert await world.service.return_lost() == 1
    await world.sql("update agent_task set available_at = now() where status = 'queued'")
    return assignment


async def test_claims_that_are_never_started_cost_an_attempt_after_five_in_a_row(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "hello")
    tries = []
    for number in range(1, 16):
        tries.append(await tries_of(world))
        assert (await _let_down(world)).claim.attempt == number
    assert tries == [1] * 5 + [2] * 5 + [3] * 5
    (task,) = await world.tasks()
    assert (task["status"], task["failure_reason"]) == ("failed", "runtime_offline")
    assert [row["kind"] for row in await world.outbox()] == ["error"]


async def test_start_ends_the_row_of_claims_that_came_to_nothing(pool: Pool) -> None:
    world = await open_world(pool)
    await world.say(await world.add_session(), "hello")
    for _ in range(4):
        await _let_down(world)
    started = await claim(world)
    await world.service.start(world.runtime, started.claim.identity)
    await world.service.fail(world.runtime, started.claim.identity, "", "runtime_recovery")
    await world.sql("update agent_task set available_at = now()")
    for _ in range(4):
        await _let_down(world)
        assert await tries_of(world) == 2
    assert (await claim(world)).claim.attempt == 10


async def test_run_that_others_join_is_counted_on_when_its_claims_come_to_nothing(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "0")
    tries = []
    for number in range(1, 7):
        await claim(world)
        tries.append(await tries_of(world))
        await world.say(session, str(number))
        await world.sql(
            "update agent_task set dispatched_at = now() - interval '91 seconds' where status = 'dispatched'"
        )
        assert await world.service.return_lost() == 1
        await world.sql("update agent_task set available_at = now() where status = 'queued'")
    assert tries == [1] * 5 + [2]


async def test_run_without_an_end_is_ended_as_a_timeout(pool: Pool) -> None:
    world = await open_world(pool)
    assignment = await world.running(await world.add_session())
    await world.sql("update agent_task set started_at = now() - interval '9001 seconds', attempt = 3")
    assert await world.service.return_lost() == 1
    assert (await world.task(assignment.claim.id))["failure_reason"] == "timeout"


async def test_heartbeat_tells_which_tasks_to_stop_and_keeps_the_others(pool: Pool) -> None:
    world = await open_world(pool)
    kept = await world.running(await world.add_session())
    ended = await world.running(await world.add_session())
    await world.service.fail(world.runtime, ended.claim.identity, "x")
    working_on = [kept.claim.identity, ended.claim.identity]
    assert await world.service.heartbeat(world.runtime, world.runtime_id, working_on) == [ended.claim.identity]


async def test_crashed_worker_of_a_living_runtime_loses_its_task(pool: Pool) -> None:
    world = await open_world(pool)
    kept = await world.running(await world.add_session())
    lost = await world.running(await world.add_session())
    await world.service.heartbeat(world.runtime, world.runtime_id, [kept.claim.identity, lost.claim.identity])
    await world.sql("update agent_task set seen_at = now() - interval '151 seconds'")
    await world.service.heartbeat(world.runtime, world.runtime_id, [kept.claim.identity])
    assert await world.service.return_lost() == 1
    assert (await world.task(lost.claim.id))["status"] == "queued"
    assert (await world.task(kept.claim.id))["status"] == "running"


async def test_sweep_is_bounded_and_passes_over_what_it_cannot_deal_with(pool: Pool) -> None:
    world = await open_world(pool)
    for _ in range(4):
        await world.running(await world.add_session())
    await world.silence_runtime()
    poison = (await world.sql("select id from agent_task order by dispatched_at, id limit 1"))[0]["id"]
    await world.sql("create function refuse() returns trigger language plpgsql as $$ begin raise 'poison'; end $$")
    await world.sql(
        f"create trigger poison before update on agent_task for each row when (old.id = '{poison}')"
        " execute function refuse()"
    )
    assert await world.service.return_lost(batch_max=2) == 1
    assert await world.service.return_lost() == 2
    assert await world.service.return_lost() == 0


async def test_sweep_limits_are_parameters(pool: Pool) -> None:
    world = await open_world(pool)
    world.limits = replace(LossLimits(), silent_seconds=5)
    await world.running(await world.add_session())
    await world.silence_runtime(6)
    assert await world.service.return_lost() == 1


async def test_sweep_by_two_daemons_at_once_returns_each_task_once(pool: Pool) -> None:
    world = await open_world(pool)
    sessions: list[Session] = [await world.add_session() for _ in range(6)]
    for session in sessions:
        await world.running(session)
    await world.silence_runtime()
    returned: list[int] = []

    async def sweep() -> None:
        returned.append(await world.service.return_lost())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(sweep)
    assert sum(returned) == 6
    assert {(task["status"], task["attempt"]) for task in await world.tasks()} == {("queued", 2)}


async def test_return_and_a_new_message_at_the_same_time_lose_nothing(database: str) -> None:
    async with open_pool(database, size_max=12) as pool:
        world = await open_world(pool, capacity=50)
        sessions = [await world.add_session() for _ in range(20)]
        runs = [await world.running(session, "one") for session in sessions]

        async with trio.open_nursery() as nursery:
            for session, run in zip(sessions, runs, strict=True):
                nursery.start_soon(world.service.fail, world.runtime, run.claim.identity, "x", "timeout")
                nursery.start_soon(world.say, session, "two")
        for _ in sessions:
            assert texts(await claim(world)) == ["one", "two"]
        assert await claims_nothing(world)


# Runtimes


async def test_register_describes_the_tokens_own_runtime(pool: Pool) -> None:
    world = await open_world(pool)
    view = await world.service.register(world.runtime, world.workspace_id, name="laptop", kind="cli", version="1")
    assert (view.id, view.name, view.kind, view.version) == (world.runtime_id, "laptop", "cli", "1")


async def test_register_in_a_foreign_workspace_is_absent(pool: Pool) -> None:
    world = await open_world(pool)
    with pytest.raises(NotFound):
        await world.service.register(world.runtime, uuid4(), name="laptop", kind="", version="")


async def test_register_with_a_taken_name_is_a_conflict(pool: Pool) -> None:
    world = await open_world(pool)
    await world.add_runtime(uuid4(), "taken")
    with pytest.raises(Conflict):
        await world.service.register(world.runtime, None, name="taken", kind="", version="")


async def test_claim_of_a_chat_tells_the_generation_of_its_messages(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "before")
    await world.sql("update chat_session set context_generation = 1")
    await world.say(session, "after /new", generation=1)
    for generation, text in enumerate(("before", "after /new")):
        assignment = await claim(world)
        assert (assignment.claim.context_generation, texts(assignment)) == (generation, [text])
        await world.service.start(world.runtime, assignment.claim.identity)
        await world.service.complete(world.runtime, assignment.claim.identity, "ok")


async def _running_issue(world: World) -> AssignedTask:
    await world.sql(
        "with i as (insert into issue (id, workspace_id, number, title, description)"
        " values (gen_random_uuid(), %(workspace)s, 7, 'Broken', 'It is broken.') returning id)"
        " insert into agent_task (id, workspace_id, agent_id, kind, issue_id)"
        " select gen_random_uuid(), %(workspace)s, %(agent)s, 'issue', id from i",
        workspace=world.workspace_id,
        agent=world.agent_id,
    )
    assignment = await claim(world)
    await world.service.start(world.runtime, assignment.claim.identity)
    return assignment


async def _comments(world: World) -> list[tuple[Any, ...]]:
    rows = await world.sql("select * from issue_comment order by created_at")
    return [(row["author_type"], row["author_id"], row["kind"], row["body"]) for row in rows]


async def test_issue_task_is_claimed_with_its_issue(pool: Pool) -> None:
    world = await open_world(pool)
    claimed = (await _running_issue(world)).claim
    assert (claimed.issue_key, claimed.issue_title, claimed.context_generation) == ("ABC-7", "Broken", None)


async def test_issue_run_that_is_completed_is_a_comment_of_the_agents_and_no_chat_message(
    pool: Pool, database: str
) -> None:
    world = await open_world(pool)
    attempt = (await _running_issue(world)).claim.identity
    async with hearing_events(database) as events:
        for _ in range(2):
            await world.service.complete(world.runtime, attempt, "I fixed it.\n")
    assert await _comments(world) == [("agent", world.agent_id, "comment", "I fixed it.\n")]
    assert [event["event"] for event in events] == ["comment:created", "task:completed"]
    assert "fixed" not in repr(events)
    assert await world.outbox() == []
    assert await world.sql("select * from chat_message") == []


@pytest.mark.parametrize("output", ["", " \n\t"])
async def test_issue_run_without_words_leaves_no_comment(pool: Pool, output: str) -> None:
    world = await open_world(pool)
    await world.service.complete(world.runtime, (await _running_issue(world)).claim.identity, output)
    assert await _comments(world) == []


async def test_issue_run_crashed_before_commit_leaves_no_comment(pool: Pool) -> None:
    world = await open_world(pool)
    attempt = (await _running_issue(world)).claim.identity

    def crash(point: str) -> None:
        if point == "task.completing":
            raise RuntimeError("crash")

    watch_points(crash)
    try:
        with pytest.raises(RuntimeError):
            await world.service.complete(world.runtime, attempt, "I fixed it.")
    finally:
        watch_points(None)
    assert await _comments(world) == []


@pytest.mark.parametrize(
    ("language", "expected"),
    [("en", "The run ended without a result: it took too long."), ("zh-Hans", "运行未产生结果：处理超时。")],
)
async def test_issue_run_that_fails_for_good_leaves_one_comment_of_the_systems(
    pool: Pool, language: str, expected: str
) -> None:
    world = await open_world(pool, language=language)
    attempt = (await _running_issue(world)).claim.identity
    assert await world.service.fail(world.runtime, attempt, "secret.py", "timeout") == "queued"
    assert await _comments(world) == []
    await world.sql("update agent_task set attempt = max_attempts, available_at = now()")
    last = (await claim(world)).claim.identity
    for _ in range(2):
        await world.service.fail(world.runtime, last, "secret.py", "timeout")
    assert await _comments(world) == [("system", None, "system", expected)]
    assert await world.outbox() == []


# Where a run's messages came from


async def test_claim_knows_the_place_of_its_conversation(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "hello")
    assert (await claim(world)).place == ConversationPlace(
        world.installation_id, "feishu", session.chat_id, "", is_group=False
    )
    unbound = await world.add_session(bound=False)
    await world.say(unbound, "hello")
    assert (await claim(world)).place is None


async def test_claim_of_a_topic_knows_its_chat_and_thread(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session(config={"chat_id": "oc_team"})
    await world.sql(
        "update channel_chat_session_binding set channel_chat_id = 'oc_team:omt_1', chat_type = 'group'"
        " where chat_session_id = %(id)s",
        id=session.id,
    )
    await world.say(session, "hello")
    assert (await claim(world)).place == ConversationPlace(
        world.installation_id, "feishu", "oc_team", "omt_1", is_group=True
    )


async def test_place_of_a_later_generation_begins_with_its_first_message(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "old")
    first = await claim(world)
    await world.service.start(world.runtime, first.claim.identity)
    await world.service.complete(world.runtime, first.claim.identity, "done")
    for text in ("fresh", "more"):
        await world.say(session, text, generation=1)
    await world.sql("update chat_message set channel_message_id = 'om_' || content")
    later = await claim(world)
    assert [message.message_id for message in later.messages] == ["om_fresh", "om_more"]
    assert later.place is not None
    assert (later.place.since_id, later.place.since) == ("om_fresh", later.messages[0].sent_at)


async def test_additions_are_looked_up_after_the_claim_and_without_its_connection(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "hello")

    async def enrich(place: ConversationPlace, messages: Sequence[ClaimedMessage]) -> Sequence[ClaimedMessage]:
        assert pool.in_use == 0
        assert [task["status"] for task in await world.tasks()] == ["dispatched"]
        return [replace(message, additions=place.chat_id) for message in messages]

    service = TaskService(world.store, world.queue, enrich=enrich)
    assignment = await service.claim(world.runtime, world.runtime_id)
    assert assignment is not None
    assert assignment.prompt == f"{session.chat_id}\n\nhello"


async def test_claim_that_dies_while_looking_up_is_handed_out_again(pool: Pool) -> None:
    world = await open_world(pool)
    session = await world.add_session()
    await world.say(session, "hello")

    async def hang(_place: ConversationPlace, _messages: Sequence[ClaimedMessage]) -> Sequence[ClaimedMessage]:
        await trio.sleep_forever()
        raise AssertionError

    with trio.move_on_after(0.2):
        await TaskService(world.store, world.queue, enrich=hang).claim(world.runtime, world.runtime_id)
    await world.silence_runtime()
    assert await world.service.return_lost() == 1
    again = await claim(world)
    assert (texts(again), again.claim.attempt) == (["hello"], 2)
    assert len(await world.tasks()) == 1
