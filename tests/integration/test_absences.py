"""An agent that goes away while a message waits for it: the conversation hears of it, once."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from gateway.core.replies import WORDS, Reply
from gateway.postgres.notices import RECENT_SECONDS, PostgresAbsences
from gateway.postgres.pool import Pool
from gateway.work.tasks.ports import SILENT_SECONDS
from support.rows import query
from support.tenant import Tenant, open_tenant


def absences(tenant: Tenant) -> PostgresAbsences:
    return PostgresAbsences(tenant.pool, silent_seconds=SILENT_SECONDS)


async def said(tenant: Tenant) -> list[tuple[str, str, str]]:
    return [(row["kind"], row["recipient_id"], row["content"]) for row in await tenant.outbox()]


async def hear(tenant: Tenant, seconds_ago: float = 0) -> None:
    await tenant.silence_runtime(seconds_ago)


@pytest.mark.parametrize("language", ["en", "zh-Hans"])
async def test_conversations_that_wait_for_a_runtime_that_went_silent_are_told_once_each(
    pool: Pool, language: str
) -> None:
    tenant = await open_tenant(pool, language=language)
    one, two = await tenant.add_session(), await tenant.add_session(thread_id="omt_1", config={"chat_id": "oc_real"})
    for session in (one, two, one):
        await tenant.say(session, "hello")
    await hear(tenant)
    assert await absences(tenant).tell() == 0
    await hear(tenant, SILENT_SECONDS + 1)
    assert await absences(tenant).tell() == 2
    assert await absences(tenant).tell() == 0
    words = WORDS[language][Reply.AGENT_OFFLINE]
    assert sorted(await said(tenant)) == sorted([("notice", one.chat_id, words), ("notice", "oc_real", words)])
    (topic,) = [row for row in await tenant.outbox() if row["recipient_id"] == "oc_real"]
    assert (topic["thread_id"], topic["reply_to_message_id"]) == ("omt_1", "om_last")
    ((name,),) = await query(pool, "select name from agent")
    assert {row["title"] for row in await tenant.outbox()} == {name}


async def test_next_silence_is_told_of_again(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "hello")
    told = []
    for heard in (SILENT_SECONDS + 60, 0, SILENT_SECONDS + 1, SILENT_SECONDS + 1):
        await hear(tenant, heard)
        told.append(await absences(tenant).tell())
    # The last round moves the heartbeat too, which is what a runtime does that came back in between.
    assert told == [1, 0, 1, 1]


async def test_two_daemons_tell_once(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    for _ in range(5):
        await tenant.say(await tenant.add_session(), "hello")
    await hear(tenant, SILENT_SECONDS + 1)
    told: list[int] = []

    async def tell() -> None:
        told.append(await absences(tenant).tell())

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(tell)
    told.append(await absences(tenant).tell())
    assert sum(told) == 5
    assert len(await tenant.outbox()) == 5


@pytest.mark.parametrize(
    ("change", "reply"),
    [
        ("update agent set archived_at = now()", Reply.AGENT_ARCHIVED),
        ("update agent set runtime_id = null", Reply.AGENT_OFFLINE),
        ("update agent_runtime set last_heartbeat_at = null", Reply.AGENT_OFFLINE),
    ],
)
async def test_whatever_took_the_agent_away_is_told(pool: Pool, change: str, reply: Reply) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "hello")
    await hear(tenant)
    await tenant.sql(change)
    assert await absences(tenant).tell() == 1
    assert await said(tenant) == [("notice", session.chat_id, WORDS["en"][reply])]


@pytest.mark.parametrize(
    "change",
    [
        "update chat_session set archived_at = now()",
        "update channel_installation set status = 'revoked'",
        "update agent_task set status = 'running'",
        "update agent_task set available_at = now() + interval '3 seconds'",
        "delete from channel_chat_session_binding",
    ],
)
async def test_where_nothing_waits_or_nobody_can_be_told_nothing_is_said(pool: Pool, change: str) -> None:
    tenant = await open_tenant(pool)
    await tenant.say(await tenant.add_session(), "hello")
    await hear(tenant, SILENT_SECONDS + 1)
    await tenant.sql(change)
    assert await absences(tenant).tell() == 0
    assert await tenant.outbox() == []


async def test_message_that_was_left_long_ago_is_not_brought_up_again(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    await tenant.say(session, "hello")
    await hear(tenant, SILENT_SECONDS + 1)
    age: dict[str, Any] = {"seconds": SILENT_SECONDS + RECENT_SECONDS + 1}
    await tenant.sql("update agent_task set available_at = now() - make_interval(secs => %(seconds)s)", **age)
    assert await absences(tenant).tell() == 0
    await tenant.say(session, "are you there?")
    assert await absences(tenant).tell() == 1
