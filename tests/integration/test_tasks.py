"""Tasks on a real Postgres: every message is answered by exactly one run, whatever happens in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from gateway.concurrency import watch_points
from gateway.core.replies import WORDS, Reply
from gateway.errors import Conflict, NotFound, StoreConflict
from gateway.postgres.pool import Pool, open_pool
from gateway.work.people.directory import RuntimePrincipal
from gateway.work.tasks.ports import Attempt, ClaimedMessage, ConversationPlace, LossLimits, TaskStatus
from gateway.work.tasks.tasks import AssignedTask, TaskService
from support.recording import Recording
from support.tenant import Session, Tenant, hearing_events, open_tenant, ringing


async def claim(tenant: Tenant, wait_seconds: float = 0) -> AssignedTask:
    assignment = await tenant.service.claim(tenant.runtime, tenant.runtime_id, wait_seconds)
    assert assignment is not None
    return assignment


async def claims_nothing(tenant: Tenant) -> bool:
    return await tenant.service.claim(tenant.runtime, tenant.runtime_id) is None


def texts(assignment: AssignedTask) -> list[str]:
    return [message.text for message in assignment.messages]


# Claiming


async def test_claim_waiting_messages_are_handed_out_in_order(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "one")
    await tenant.say(session, "two")
    assignment = await claim(tenant)
    assert texts(assignment) == ["one", "two"]
    assert assignment.prompt == "one\n\ntwo"
    assert assignment.messages[0].author == "Ann"
    assert assignment.messages[0].age_seconds >= 0
    assert assignment.claim.agent_name == "agent"
    assert assignment.claim.attempt == 1


async def test_claim_not_yet_available_task_is_left_alone(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    await tenant.say(await tenant.add_session(), "wait", window=60)
    assert await claims_nothing(tenant)


async def test_claim_command_message_is_not_part_of_the_run(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "/issue x", kind="channel_command")
    await tenant.say(session, "hello")
    assert texts(await claim(tenant)) == ["hello"]


async def test_claim_messages_of_two_generations_never_meet_in_one_run(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "before", generation=0)
    await tenant.say(session, "after", generation=1)
    first = await claim(tenant)
    assert texts(first) == ["before"]
    assert await claims_nothing(tenant)
    await tenant.service.start(tenant.runtime, first.claim.identity)
    await tenant.service.complete(tenant.runtime, first.claim.identity, "ok")
    assert texts(await claim(tenant)) == ["after"]


async def test_claim_goes_by_priority_then_age(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    sessions = [await tenant.add_session() for _ in range(3)]
    for number, session in enumerate(sessions):
        await tenant.say(session, str(number))
    await tenant.sql("update agent_task set priority = 5 where chat_session_id = %(id)s", id=sessions[2].id)
    assert [texts(await claim(tenant)) for _ in range(3)] == [["2"], ["0"], ["1"]]


async def test_claim_of_an_archived_agent_finds_nothing(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    await tenant.say(await tenant.add_session(), "hello")
    await tenant.sql("update agent set archived_at = now()")
    assert await claims_nothing(tenant)


async def test_claim_agent_moved_to_another_runtime_is_claimed_there(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    other = await tenant.add_runtime(uuid4(), "other")
    await tenant.say(await tenant.add_session(), "hello")
    await tenant.sql("update agent set runtime_id = %(id)s", id=other.runtime_id)
    assert await claims_nothing(tenant)
    assert await tenant.service.claim(other, other.runtime_id) is not None


async def test_claim_agent_that_names_a_runtime_of_another_workspace_is_not_handed_out(pool: Pool) -> None:
    tenant, stranger = await open_tenant(pool), await open_tenant(pool)
    await tenant.say(await tenant.add_session(), "secret")
    await tenant.sql(
        "update agent set runtime_id = %(runtime)s where id = %(agent)s",
        runtime=stranger.runtime_id,
        agent=tenant.agent_id,
    )
    assert await claims_nothing(stranger)


async def test_claim_counts_as_a_heartbeat(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    await claims_nothing(tenant)
    rows = await tenant.sql("select last_heartbeat_at > now() - interval '5 seconds' as fresh from agent_runtime")
    assert rows == [{"fresh": True}]


async def test_claim_with_another_runtimes_id_is_absent(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    with pytest.raises(NotFound):
        await tenant.service.claim(tenant.runtime, uuid4())


async def test_claim_twenty_at_once_respects_the_capacity_and_hands_nothing_out_twice(database: str) -> None:
    async with open_pool(database, size_max=20) as pool:
        tenant = await open_tenant(pool, capacity=7)
        for number in range(20):
            await tenant.say(await tenant.add_session(), str(number))
        claimed: list[AssignedTask] = []

        async def claimer() -> None:
            assignment = await tenant.service.claim(tenant.runtime, tenant.runtime_id)
            if assignment is not None:
                claimed.append(assignment)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(claimer)
        assert len({assignment.claim.id for assignment in claimed}) == len(claimed) == 7


async def test_claim_session_with_an_active_run_waits_for_its_end(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    first = await tenant.running(session, "one")
    await tenant.say(session, "two")
    assert await claims_nothing(tenant)
    await tenant.service.complete(tenant.runtime, first.claim.identity, "done")
    assert texts(await claim(tenant)) == ["two"]


async def test_claim_every_message_of_a_stream_is_answered_by_exactly_one_run(database: str) -> None:
    async with open_pool(database, size_max=16) as pool:
        tenant = await open_tenant(pool)
        session = await tenant.add_session()
        answered: list[str] = []
        speaking = True

        async def speak(speaker: int) -> None:
            for number in range(15):
                await tenant.say(session, f"{speaker}.{number}")

        async def work() -> None:
            while speaking or not await claims_and_completes():
                await claims_and_completes()

        async def claims_and_completes() -> bool:
            assignment = await tenant.service.claim(tenant.runtime, tenant.runtime_id)
            if assignment is None:
                return True
            await tenant.service.start(tenant.runtime, assignment.claim.identity)
            answered.extend(texts(assignment))
            await tenant.service.complete(tenant.runtime, assignment.claim.identity, "ok")
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
        assert {task["status"] for task in await tenant.tasks()} == {"completed"}


# Waiting for work


async def test_long_poll_new_message_is_handed_out_at_once(pool: Pool, database: str) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    got: list[AssignedTask] = []

    async def poll() -> None:
        got.append(await claim(tenant, wait_seconds=30))

    with trio.fail_after(10):
        async with ringing(tenant, database), trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await tenant.say(session, "hello")
            await tenant.sql("select pg_notify('gateway_task', %(id)s)", id=str(tenant.runtime_id))
    assert texts(got[0]) == ["hello"]


async def test_long_poll_batch_window_is_waited_out_without_a_notification(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    await tenant.say(await tenant.add_session(), "hello", window=0.3)
    with trio.fail_after(10):
        assert texts(await claim(tenant, wait_seconds=30)) == ["hello"]


async def test_long_poll_ends_empty_when_its_time_is_over(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    with trio.fail_after(10):
        assert await tenant.service.claim(tenant.runtime, tenant.runtime_id, 0.05) is None


async def test_long_poll_holds_no_connection_while_it_waits(database: str) -> None:
    async with open_pool(database, size_max=1) as pool:
        tenant = await open_tenant(pool)
        session = await tenant.add_session()
        service = tenant.service
        with trio.fail_after(20):
            async with ringing(tenant, database), trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(service.claim, tenant.runtime, tenant.runtime_id, 30)
                await tenant.say(session, "hello")
                service.drain()


async def test_long_poll_cancelled_while_it_claims_loses_no_task(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "hello")
    with trio.CancelScope() as scope:
        watch_points(lambda point: scope.cancel() if point == "task.claimed" else None)
        try:
            await tenant.service.claim(tenant.runtime, tenant.runtime_id)
        finally:
            watch_points(None)
    await tenant.sql("update agent_task set dispatched_at = now() - interval '91 seconds' where status = 'dispatched'")
    await tenant.service.return_lost()
    assert texts(await claim(tenant)) == ["hello"]


# The end of a run


async def test_complete_leaves_one_answer_and_one_row_to_send(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session)
    assert await tenant.service.complete(tenant.runtime, assignment.claim.identity, "the answer") == "completed"
    assert await tenant.service.complete(tenant.runtime, assignment.claim.identity, "another") == "completed"
    assert await tenant.service.fail(tenant.runtime, assignment.claim.identity, "too late") == "completed"
    assert await tenant.answers(session) == ["the answer"]
    (row,) = await tenant.outbox()
    assert (row["kind"], row["content"], row["recipient_id"], row["status"]) == (
        "answer",
        "the answer",
        session.chat_id,
        "queued",
    )
    assert row["thread_id"] is None
    assert row["reply_to_message_id"] is None
    assert (await tenant.task(assignment.claim.id))["result"] == {"output": "the answer"}


async def test_complete_twice_at_the_same_time_leaves_one_answer(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session)
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(tenant.service.complete, tenant.runtime, assignment.claim.identity, str(number))
    assert len(await tenant.answers(session)) == len(await tenant.outbox()) == 1


async def test_complete_announces_the_chat_before_the_task(pool: Pool, database: str) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    async with hearing_events(database) as events:
        assignment = await tenant.running(session)
        await tenant.service.progress(tenant.runtime, assignment.claim.identity, "half way")
        await tenant.service.complete(tenant.runtime, assignment.claim.identity, "a secret answer")
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
    tenant = await open_tenant(pool, language=language)
    session = await tenant.add_session()
    assignment = await tenant.running(session)
    for _ in range(2):
        await tenant.service.complete(tenant.runtime, assignment.claim.identity, output)
    assert await tenant.answers(session) == []
    (row,) = await tenant.outbox()
    assert (row["kind"], row["task_id"], row["recipient_id"]) == ("notice", assignment.claim.id, session.chat_id)
    assert row["content"] == WORDS[language][Reply.NO_ANSWER]


async def test_complete_without_words_where_nobody_chats_says_nothing(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session(bound=False)
    assignment = await tenant.running(session)
    await tenant.service.complete(tenant.runtime, assignment.claim.identity, "")
    assert await tenant.outbox() == []


async def test_complete_output_with_nul_is_stored_without_it(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session)
    await tenant.service.complete(tenant.runtime, assignment.claim.identity, "a\x00b\ud800")
    assert await tenant.answers(session) == ["ab\ufffd"]


async def test_complete_topic_is_answered_inside_the_topic(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session(thread_id="omt_1", config={"chat_id": "oc_real"})
    assignment = await tenant.running(session)
    await tenant.service.complete(tenant.runtime, assignment.claim.identity, "hi")
    (row,) = await tenant.outbox()
    assert (row["recipient_id"], row["thread_id"], row["reply_to_message_id"]) == ("oc_real", "omt_1", "om_last")


@pytest.mark.parametrize("situation", ["unbound", "revoked"])
async def test_complete_without_a_bot_to_speak_keeps_the_answer_only(pool: Pool, situation: str) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session(bound=situation != "unbound")
    if situation == "revoked":
        await tenant.sql("update channel_installation set status = 'revoked'")
    assignment = await tenant.running(session)
    await tenant.service.complete(tenant.runtime, assignment.claim.identity, "hi")
    assert await tenant.answers(session) == ["hi"]
    assert await tenant.outbox() == []


async def test_complete_crashed_before_commit_leaves_nothing(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session)

    def crash(point: str) -> None:
        if point == "task.completing":
            raise RuntimeError("crash")

    watch_points(crash)
    try:
        with pytest.raises(RuntimeError, match="crash"):
            await tenant.service.complete(tenant.runtime, assignment.claim.identity, "hi")
    finally:
        watch_points(None)
    assert await tenant.answers(session) == []
    assert await tenant.outbox() == []
    assert (await tenant.task(assignment.claim.id))["status"] == "running"


async def test_complete_that_meets_a_deadlock_is_tried_again(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session)
    victims = 1

    def meet(point: str) -> None:
        nonlocal victims
        if point == "task.completing" and victims:
            victims -= 1
            raise StoreConflict("deadlock detected")

    watch_points(meet)
    try:
        assert await tenant.service.complete(tenant.runtime, assignment.claim.identity, "hi") == "completed"
    finally:
        watch_points(None)
    assert await tenant.answers(session) == ["hi"]
    assert len(await tenant.outbox()) == 1


async def test_fail_for_good_tells_the_person_once_without_internals(pool: Pool, database: str) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session)
    async with hearing_events(database) as events:
        status = await tenant.service.fail(tenant.runtime, assignment.claim.identity, "odd: secret.py\x00", "made_up")
    assert status == "failed"
    await tenant.service.fail(tenant.runtime, assignment.claim.identity, "again")
    (row,) = await tenant.outbox()
    assert row["kind"] == "error"
    assert row["content"] == "Sorry, I could not answer this: the agent failed. Please send it again."
    task = await tenant.task(assignment.claim.id)
    assert (task["failure_reason"], task["error"]) == ("agent_error.unknown", "odd: secret.py")
    assert await tenant.answers(session) == []
    assert [event["event"] for event in events] == ["task:failed"]
    assert events[0]["retry_pending"] is False
    assert "secret" not in repr(events)


async def test_fail_in_a_chinese_workspace_apologises_in_chinese(pool: Pool) -> None:
    tenant = await open_tenant(pool, language="zh-Hans")
    assignment = await tenant.running(await tenant.add_session())
    await tenant.service.fail(tenant.runtime, assignment.claim.identity, "x")
    assert "抱歉" in (await tenant.outbox())[0]["content"]


async def test_fail_that_another_attempt_may_mend_goes_back_to_the_queue(pool: Pool, database: str) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session)
    async with hearing_events(database) as events:
        assert (
            await tenant.service.fail(tenant.runtime, assignment.claim.identity, "gone", "runtime_recovery") == "queued"
        )
    assert [(event["event"], event.get("retry_pending")) for event in events] == [
        ("task:failed", True),
        ("task:queued", None),
    ]
    assert "error" not in events[0]
    assert await tenant.outbox() == []
    await tenant.say(session, "and this")
    again = await claim(tenant)
    assert again.claim.id == assignment.claim.id
    assert again.claim.attempt == 2
    assert texts(again) == ["hello", "and this"]


async def test_fail_without_a_reason_is_read_from_the_error_and_retried_at_once_then_later(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    assignment = await tenant.running(await tenant.add_session())
    words = "API Error: Connection error."
    assert await tenant.service.fail(tenant.runtime, assignment.claim.identity, words) == "queued"
    assert (await tenant.task(assignment.claim.id))["failure_reason"] == "agent_error.provider_network"
    again = await claim(tenant)
    assert again.claim.attempt == 2
    assert await tenant.service.fail(tenant.runtime, again.claim.identity, words) == "queued"
    assert await claims_nothing(tenant)


async def test_fail_on_the_last_attempt_is_final(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    assignment = await tenant.running(await tenant.add_session())
    await tenant.sql("update agent_task set attempt = 3")
    last = await tenant.attempt(assignment.claim.id)
    assert await tenant.service.fail(tenant.runtime, last, "x", "timeout") == "failed"
    assert len(await tenant.outbox()) == 1


async def test_fail_with_a_waiting_sibling_hands_its_messages_over(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session, "one")
    sibling = await tenant.say(session, "two")
    assert await tenant.service.fail(tenant.runtime, assignment.claim.identity, "x", "timeout") == "cancelled"
    merged = await claim(tenant)
    assert merged.claim.id == sibling
    assert texts(merged) == ["one", "two"]
    assert await tenant.outbox() == []


async def test_fail_again_and_again_while_a_run_always_waits_comes_to_an_end(pool: Pool) -> None:
    """The messages of a later generation wait in a run of their own, into which each failed run is merged."""
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "poison", generation=0)
    await tenant.say(session, "later", generation=1)
    attempts: list[int] = []
    status = ""
    while status != "failed" and len(attempts) < 10:
        assignment = await claim(tenant)
        assert texts(assignment) == ["poison"]
        attempts.append(assignment.claim.attempt)
        await tenant.service.start(tenant.runtime, assignment.claim.identity)
        status = await tenant.service.fail(tenant.runtime, assignment.claim.identity, "x", "runtime_recovery")
    assert attempts == [1, 2, 3]
    assert [row["kind"] for row in await tenant.outbox()] == ["error"]
    rest = await claim(tenant)
    assert (texts(rest), rest.claim.attempt) == (["later"], 1)


async def test_lost_claim_answer_of_a_merged_run_costs_no_attempt(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "one")
    await claim(tenant)
    await tenant.say(session, "two")
    await tenant.sql("update agent_task set dispatched_at = now() - interval '91 seconds' where status = 'dispatched'")
    assert await tenant.service.return_lost() == 1
    merged = await claim(tenant)
    assert (texts(merged), merged.claim.attempt) == (["one", "two"], 1)


@pytest.mark.parametrize("action", ["start", "progress", "complete"])
async def test_report_in_the_wrong_status_is_a_conflict(pool: Pool, action: str) -> None:
    tenant = await open_tenant(pool)
    task_id = await tenant.say(await tenant.add_session(), "hello")
    with pytest.raises(Conflict):
        await call(tenant, action, tenant.runtime, await tenant.attempt(task_id))


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        ("start", {"dispatched"}),
        ("progress", {"running"}),
        ("complete", {"running"}),
        ("fail", {"dispatched", "running"}),
    ],
)
async def test_report_is_taken_in_these_statuses_only(pool: Pool, action: str, allowed: set[str]) -> None:
    tenant = await open_tenant(pool)
    taken, refused = set(), set()
    for status in TaskStatus:
        assignment = await tenant.running(await tenant.add_session())
        task_id = assignment.claim.id
        await tenant.sql("update agent_task set status = %(status)s where id = %(id)s", status=status, id=task_id)
        try:
            await call(tenant, action, tenant.runtime, assignment.claim.identity)
            taken.add(str(status))
        except Conflict:
            refused.add(str(status))
    # To end what has ended is no mistake, and changes nothing.
    ended = {"completed", "failed", "cancelled"} if action in {"complete", "fail"} else set()
    assert taken == allowed | ended
    assert refused == set(TaskStatus) - taken


@pytest.mark.parametrize("action", ["start", "progress", "complete", "fail", "find"])
async def test_report_on_a_foreign_task_is_absent(pool: Pool, action: str) -> None:
    tenant, stranger = await open_tenant(pool), await open_tenant(pool)
    sibling = await tenant.add_runtime(uuid4(), "other")
    assignment = await tenant.running(await tenant.add_session())
    for principal in (stranger.runtime, sibling):
        with pytest.raises(NotFound):
            await call(tenant, action, principal, assignment.claim.identity)
    with pytest.raises(NotFound):
        await call(tenant, action, tenant.runtime, Attempt(uuid4(), 1))


async def call(tenant: Tenant, action: str, runtime: RuntimePrincipal, attempt: Attempt) -> Any:
    if action == "find":
        return await tenant.service.find(runtime, attempt.task_id)
    arguments = () if action == "start" else ("x",)
    return await getattr(tenant.service, action)(runtime, attempt, *arguments)


async def test_ended_runs_are_counted_once_with_their_length(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    recorder = Recording()
    service = TaskService(tenant.store, tenant.queue, recorder=recorder)
    done, retried, failed = [await tenant.running(await tenant.add_session()) for _ in range(3)]
    for _ in range(2):
        await service.complete(tenant.runtime, done.claim.identity, "ok")
    await service.fail(tenant.runtime, retried.claim.identity, "x", "timeout")
    await service.fail(tenant.runtime, failed.claim.identity, "x")
    assert recorder.seen("agent_task_terminal") == [("chat", "completed"), ("chat", "failed")]
    assert recorder.seen("agent_task_run_seconds") == [("chat",)] * 2
    assert min(recorder.values("agent_task_run_seconds")) >= 0


# Lost tasks


async def test_silent_runtime_running_task_returns_to_the_queue(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session)
    assert await tenant.service.return_lost() == 0
    await tenant.silence_runtime()
    assert await tenant.service.return_lost() == 1
    assert await tenant.outbox() == []
    again = await claim(tenant)
    assert (again.claim.id, again.claim.attempt, texts(again)) == (assignment.claim.id, 2, ["hello"])


async def test_silent_runtime_that_comes_back_cannot_answer_twice(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session)
    await tenant.silence_runtime()
    await tenant.service.return_lost()
    with pytest.raises(Conflict):
        await tenant.service.complete(tenant.runtime, assignment.claim.identity, "late")
    again = await claim(tenant)
    await tenant.service.start(tenant.runtime, again.claim.identity)
    await tenant.service.complete(tenant.runtime, again.claim.identity, "answer")
    assert await tenant.answers(session) == ["answer"]


async def test_silent_runtime_for_the_third_time_is_one_visible_failure(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    await tenant.running(await tenant.add_session())
    await tenant.sql("update agent_task set attempt = max_attempts")
    await tenant.silence_runtime()
    await tenant.service.return_lost()
    assert ["offline" in row["content"] for row in await tenant.outbox()] == [True]


async def test_lost_claim_answer_returns_without_costing_an_attempt(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    await tenant.say(await tenant.add_session(), "hello")
    first = await claim(tenant)
    await tenant.sql("update agent_task set dispatched_at = now() - interval '89 seconds'")
    assert await tenant.service.return_lost() == 0
    await tenant.sql("update agent_task set dispatched_at = now() - interval '91 seconds'")
    assert await tenant.service.return_lost() == 1
    again = await claim(tenant)
    assert (again.claim.id, again.claim.attempt) == (first.claim.id, 2)
    assert (await tenant.task(again.claim.id))["forgiven"] == 1


async def tries_of(tenant: Tenant) -> int:
    """The tries that count of the one task that has not ended."""
    rows = await tenant.sql(
        "select attempt - forgiven as tries from agent_task where status in ('queued', 'dispatched')"
    )
    (tries,) = (int(row["tries"]) for row in rows)
    return tries


async def _let_down(tenant: Tenant) -> AssignedTask:
    """A claim that is not started in time."""
    assignment = await claim(tenant)
    await tenant.sql("update agent_task set dispatched_at = now() - interval '91 seconds' where status = 'dispatched'")
    assert await tenant.service.return_lost() == 1
    await tenant.sql("update agent_task set available_at = now() where status = 'queued'")
    return assignment


async def test_claims_that_are_never_started_cost_an_attempt_after_five_in_a_row(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "hello")
    tries = []
    for number in range(1, 16):
        tries.append(await tries_of(tenant))
        assert (await _let_down(tenant)).claim.attempt == number
    assert tries == [1] * 5 + [2] * 5 + [3] * 5
    (task,) = await tenant.tasks()
    assert (task["status"], task["failure_reason"]) == ("failed", "runtime_offline")
    assert [row["kind"] for row in await tenant.outbox()] == ["error"]


async def test_start_ends_the_row_of_claims_that_came_to_nothing(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    await tenant.say(await tenant.add_session(), "hello")
    for _ in range(4):
        await _let_down(tenant)
    started = await claim(tenant)
    await tenant.service.start(tenant.runtime, started.claim.identity)
    await tenant.service.fail(tenant.runtime, started.claim.identity, "", "runtime_recovery")
    await tenant.sql("update agent_task set available_at = now()")
    for _ in range(4):
        await _let_down(tenant)
        assert await tries_of(tenant) == 2
    assert (await claim(tenant)).claim.attempt == 10


async def test_run_that_others_join_is_counted_on_when_its_claims_come_to_nothing(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "0")
    tries = []
    for number in range(1, 7):
        await claim(tenant)
        tries.append(await tries_of(tenant))
        await tenant.say(session, str(number))
        await tenant.sql(
            "update agent_task set dispatched_at = now() - interval '91 seconds' where status = 'dispatched'"
        )
        assert await tenant.service.return_lost() == 1
        await tenant.sql("update agent_task set available_at = now() where status = 'queued'")
    assert tries == [1] * 5 + [2]


async def test_run_without_an_end_is_ended_as_a_timeout(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    assignment = await tenant.running(await tenant.add_session())
    await tenant.sql("update agent_task set started_at = now() - interval '9001 seconds', attempt = 3")
    assert await tenant.service.return_lost() == 1
    assert (await tenant.task(assignment.claim.id))["failure_reason"] == "timeout"


async def test_heartbeat_tells_which_tasks_to_stop_and_keeps_the_others(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    kept = await tenant.running(await tenant.add_session())
    ended = await tenant.running(await tenant.add_session())
    await tenant.service.fail(tenant.runtime, ended.claim.identity, "x")
    working_on = [kept.claim.identity, ended.claim.identity]
    assert await tenant.service.heartbeat(tenant.runtime, tenant.runtime_id, working_on) == [ended.claim.identity]


async def test_crashed_worker_of_a_living_runtime_loses_its_task(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    kept = await tenant.running(await tenant.add_session())
    lost = await tenant.running(await tenant.add_session())
    await tenant.service.heartbeat(tenant.runtime, tenant.runtime_id, [kept.claim.identity, lost.claim.identity])
    await tenant.sql("update agent_task set seen_at = now() - interval '151 seconds'")
    await tenant.service.heartbeat(tenant.runtime, tenant.runtime_id, [kept.claim.identity])
    assert await tenant.service.return_lost() == 1
    assert (await tenant.task(lost.claim.id))["status"] == "queued"
    assert (await tenant.task(kept.claim.id))["status"] == "running"


async def test_sweep_is_bounded_and_passes_over_what_it_cannot_deal_with(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    for _ in range(4):
        await tenant.running(await tenant.add_session())
    await tenant.silence_runtime()
    poison = (await tenant.sql("select id from agent_task order by dispatched_at, id limit 1"))[0]["id"]
    await tenant.sql("create function refuse() returns trigger language plpgsql as $$ begin raise 'poison'; end $$")
    await tenant.sql(
        f"create trigger poison before update on agent_task for each row when (old.id = '{poison}')"
        " execute function refuse()"
    )
    assert await tenant.service.return_lost(batch_max=2) == 1
    assert await tenant.service.return_lost() == 2
    assert await tenant.service.return_lost() == 0


async def test_sweep_limits_are_parameters(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    tenant.limits = replace(LossLimits(), silent_seconds=5)
    await tenant.running(await tenant.add_session())
    await tenant.silence_runtime(6)
    assert await tenant.service.return_lost() == 1


async def test_sweep_by_two_daemons_at_once_returns_each_task_once(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    sessions: list[Session] = [await tenant.add_session() for _ in range(6)]
    for session in sessions:
        await tenant.running(session)
    await tenant.silence_runtime()
    returned: list[int] = []

    async def sweep() -> None:
        returned.append(await tenant.service.return_lost())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(sweep)
    assert sum(returned) == 6
    assert {(task["status"], task["attempt"]) for task in await tenant.tasks()} == {("queued", 2)}


async def test_return_and_a_new_message_at_the_same_time_lose_nothing(database: str) -> None:
    async with open_pool(database, size_max=12) as pool:
        tenant = await open_tenant(pool, capacity=50)
        sessions = [await tenant.add_session() for _ in range(20)]
        runs = [await tenant.running(session, "one") for session in sessions]

        async with trio.open_nursery() as nursery:
            for session, run in zip(sessions, runs, strict=True):
                nursery.start_soon(tenant.service.fail, tenant.runtime, run.claim.identity, "x", "timeout")
                nursery.start_soon(tenant.say, session, "two")
        for _ in sessions:
            assert texts(await claim(tenant)) == ["one", "two"]
        assert await claims_nothing(tenant)


# Runtimes


async def test_register_describes_the_tokens_own_runtime(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    view = await tenant.service.register(tenant.runtime, tenant.workspace_id, name="laptop", kind="cli", version="1")
    assert (view.id, view.name, view.kind, view.version) == (tenant.runtime_id, "laptop", "cli", "1")


async def test_register_in_a_foreign_workspace_is_absent(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    with pytest.raises(NotFound):
        await tenant.service.register(tenant.runtime, uuid4(), name="laptop", kind="", version="")


async def test_register_with_a_taken_name_is_a_conflict(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    await tenant.add_runtime(uuid4(), "taken")
    with pytest.raises(Conflict):
        await tenant.service.register(tenant.runtime, None, name="taken", kind="", version="")


async def test_claim_of_a_chat_tells_the_generation_of_its_messages(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "before")
    await tenant.sql("update chat_session set context_generation = 1")
    await tenant.say(session, "after /new", generation=1)
    for generation, text in enumerate(("before", "after /new")):
        assignment = await claim(tenant)
        assert (assignment.claim.context_generation, texts(assignment)) == (generation, [text])
        await tenant.service.start(tenant.runtime, assignment.claim.identity)
        await tenant.service.complete(tenant.runtime, assignment.claim.identity, "ok")


async def _running_issue(tenant: Tenant) -> AssignedTask:
    await tenant.sql(
        "with i as (insert into issue (id, workspace_id, number, title, description)"
        " values (gen_random_uuid(), %(workspace)s, 7, 'Broken', 'It is broken.') returning id)"
        " insert into agent_task (id, workspace_id, agent_id, kind, issue_id)"
        " select gen_random_uuid(), %(workspace)s, %(agent)s, 'issue', id from i",
        workspace=tenant.workspace_id,
        agent=tenant.agent_id,
    )
    assignment = await claim(tenant)
    await tenant.service.start(tenant.runtime, assignment.claim.identity)
    return assignment


async def _comments(tenant: Tenant) -> list[tuple[Any, ...]]:
    rows = await tenant.sql("select * from issue_comment order by created_at")
    return [(row["author_type"], row["author_id"], row["kind"], row["body"]) for row in rows]


async def test_issue_task_is_claimed_with_its_issue(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    claimed = (await _running_issue(tenant)).claim
    assert (claimed.issue_key, claimed.issue_title, claimed.context_generation) == ("ABC-7", "Broken", None)


async def test_issue_run_that_is_completed_is_a_comment_of_the_agents_and_no_chat_message(
    pool: Pool, database: str
) -> None:
    tenant = await open_tenant(pool)
    attempt = (await _running_issue(tenant)).claim.identity
    async with hearing_events(database) as events:
        for _ in range(2):
            await tenant.service.complete(tenant.runtime, attempt, "I fixed it.\n")
    assert await _comments(tenant) == [("agent", tenant.agent_id, "comment", "I fixed it.\n")]
    assert [event["event"] for event in events] == ["comment:created", "task:completed"]
    assert "fixed" not in repr(events)
    assert await tenant.outbox() == []
    assert await tenant.sql("select * from chat_message") == []


@pytest.mark.parametrize("output", ["", " \n\t"])
async def test_issue_run_without_words_leaves_no_comment(pool: Pool, output: str) -> None:
    tenant = await open_tenant(pool)
    await tenant.service.complete(tenant.runtime, (await _running_issue(tenant)).claim.identity, output)
    assert await _comments(tenant) == []


async def test_issue_run_crashed_before_commit_leaves_no_comment(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    attempt = (await _running_issue(tenant)).claim.identity

    def crash(point: str) -> None:
        if point == "task.completing":
            raise RuntimeError("crash")

    watch_points(crash)
    try:
        with pytest.raises(RuntimeError):
            await tenant.service.complete(tenant.runtime, attempt, "I fixed it.")
    finally:
        watch_points(None)
    assert await _comments(tenant) == []


@pytest.mark.parametrize(
    ("language", "expected"),
    [("en", "The run ended without a result: it took too long."), ("zh-Hans", "运行未产生结果：处理超时。")],
)
async def test_issue_run_that_fails_for_good_leaves_one_comment_of_the_systems(
    pool: Pool, language: str, expected: str
) -> None:
    tenant = await open_tenant(pool, language=language)
    attempt = (await _running_issue(tenant)).claim.identity
    assert await tenant.service.fail(tenant.runtime, attempt, "secret.py", "timeout") == "queued"
    assert await _comments(tenant) == []
    await tenant.sql("update agent_task set attempt = max_attempts, available_at = now()")
    last = (await claim(tenant)).claim.identity
    for _ in range(2):
        await tenant.service.fail(tenant.runtime, last, "secret.py", "timeout")
    assert await _comments(tenant) == [("system", UUID(int=0), "system", expected)]
    assert await tenant.outbox() == []


# Where a run's messages came from


async def test_claim_knows_the_place_of_its_conversation(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "hello")
    assert (await claim(tenant)).place == ConversationPlace(
        tenant.installation_id, "feishu", session.chat_id, "", is_group=False
    )
    unbound = await tenant.add_session(bound=False)
    await tenant.say(unbound, "hello")
    assert (await claim(tenant)).place is None


async def test_claim_of_a_topic_knows_its_chat_and_thread(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session(config={"chat_id": "oc_team"})
    await tenant.sql(
        "update channel_chat_session_binding set channel_chat_id = 'oc_team:omt_1', chat_type = 'group'"
        " where chat_session_id = %(id)s",
        id=session.id,
    )
    await tenant.say(session, "hello")
    assert (await claim(tenant)).place == ConversationPlace(
        tenant.installation_id, "feishu", "oc_team", "omt_1", is_group=True
    )


async def test_place_of_a_later_generation_begins_with_its_first_message(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "old")
    first = await claim(tenant)
    await tenant.service.start(tenant.runtime, first.claim.identity)
    await tenant.service.complete(tenant.runtime, first.claim.identity, "done")
    for text in ("fresh", "more"):
        await tenant.say(session, text, generation=1)
    await tenant.sql("update chat_message set channel_message_id = 'om_' || content")
    later = await claim(tenant)
    assert [message.message_id for message in later.messages] == ["om_fresh", "om_more"]
    assert later.place is not None
    assert (later.place.since_id, later.place.since) == ("om_fresh", later.messages[0].sent_at)


async def test_additions_are_looked_up_after_the_claim_and_without_its_connection(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "hello")

    async def enrich(place: ConversationPlace, messages: Sequence[ClaimedMessage]) -> Sequence[ClaimedMessage]:
        assert pool.in_use == 0
        assert [task["status"] for task in await tenant.tasks()] == ["dispatched"]
        return [replace(message, additions=place.chat_id) for message in messages]

    service = TaskService(tenant.store, tenant.queue, enrich=enrich)
    assignment = await service.claim(tenant.runtime, tenant.runtime_id)
    assert assignment is not None
    assert assignment.prompt == f"{session.chat_id}\n\nhello"


async def test_claim_that_dies_while_looking_up_is_handed_out_again(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "hello")

    async def hang(_place: ConversationPlace, _messages: Sequence[ClaimedMessage]) -> Sequence[ClaimedMessage]:
        await trio.sleep_forever()
        raise AssertionError

    with trio.move_on_after(0.2):
        await TaskService(tenant.store, tenant.queue, enrich=hang).claim(tenant.runtime, tenant.runtime_id)
    await tenant.silence_runtime()
    assert await tenant.service.return_lost() == 1
    again = await claim(tenant)
    assert (texts(again), again.claim.attempt) == (["hello"], 2)
    assert len(await tenant.tasks()) == 1
