"""The outbox on a real Postgres: what its statements promise, and a sender that dies at the worst moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from gateway.channel.errors import PlatformRefused, PlatformThrottled, PlatformUnavailable
from gateway.concurrency import Signal, watch_points
from gateway.core.replies import Reply, in_every_language
from gateway.outbound.ports import LeaseEpoch
from gateway.postgres.driver import TrioConnection
from gateway.postgres.listen import run_listener
from gateway.postgres.outbox_store import PostgresOutboxStore
from gateway.postgres.pool import Pool
from support.outbox_memory import sending
from support.tenant import Tenant, open_tenant
from support.toy.platform import ToyPlatform, raising


async def add_row(tenant: Tenant, text: str = "hello", chat_id: str = "oc_1") -> UUID:
    row_id = uuid4()
    await tenant.sql(
        "insert into outbound_message (id, workspace_id, installation_id, kind, recipient_id, content, uuid)"
        " values (%(id)s, %(workspace)s, %(installation)s, 'answer', %(chat)s, %(text)s, %(uuid)s)",
        id=row_id,
        workspace=tenant.workspace_id,
        installation=tenant.installation_id,
        chat=chat_id,
        text=text,
        uuid=str(row_id),
    )
    return row_id


async def row_of(tenant: Tenant, row_id: UUID) -> dict[str, Any]:
    return (await tenant.sql("select * from outbound_message where id = %(id)s", id=row_id))[0]


async def new_holder(tenant: Tenant) -> LeaseEpoch:
    rows = await tenant.sql(
        "update channel_installation set lease_epoch = lease_epoch + 1 where id = %(id)s returning lease_epoch",
        id=tenant.installation_id,
    )
    return LeaseEpoch(tenant.installation_id, rows[0]["lease_epoch"])


async def until(condition: Callable[[], Any]) -> None:
    with trio.fail_after(10):
        while not await condition():
            await trio.sleep(0.01)


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return await open_tenant(pool)


@pytest.fixture
def store(pool: Pool) -> PostgresOutboxStore:
    return PostgresOutboxStore(pool)


async def test_take_due_is_the_first_open_row_of_each_recipient(tenant: Tenant, store: PostgresOutboxStore) -> None:
    lease = LeaseEpoch(tenant.installation_id, 1)
    for chat in ("oc_1", "oc_1", "oc_2", "oc_3"):
        await add_row(tenant, chat, chat)
    rows = await store.take_due(lease, busy={"chat:oc_3"}, rows_max=10)
    assert sorted(row.content for row in rows) == ["oc_1", "oc_2"]
    assert [row.attempts for row in rows] == [1, 1]
    assert await store.take_due(lease, busy={"chat:oc_1", "chat:oc_2", "chat:oc_3"}, rows_max=10) == []


async def test_take_due_is_bounded_and_oldest_first(tenant: Tenant, store: PostgresOutboxStore) -> None:
    for number in range(4):
        await add_row(tenant, str(number), f"oc_{number}")
    rows = await store.take_due(LeaseEpoch(tenant.installation_id, 1), busy=(), rows_max=2)
    assert sorted(row.content for row in rows) == ["0", "1"]


async def test_postponed_row_holds_its_chat_back_until_it_is_due(tenant: Tenant, store: PostgresOutboxStore) -> None:
    lease = LeaseEpoch(tenant.installation_id, 1)
    first = await add_row(tenant, "one")
    await add_row(tenant, "two")
    (row,) = await store.take_due(lease, busy=(), rows_max=10)
    assert await store.postpone(lease, row, 30.0, 7, "away", doubtful=True)
    assert await store.take_due(lease, busy=(), rows_max=10) == []
    due = await store.seconds_to_next(lease, busy=())
    assert due is not None
    assert 25 < due <= 30
    stored = await row_of(tenant, first)
    assert (stored["status"], stored["error_code"], stored["error"]) == ("queued", 7, "away")
    await tenant.sql("update outbound_message set available_at = now() where id = %(id)s", id=first)
    (again,) = await store.take_due(lease, busy=(), rows_max=10)
    assert (again.id, again.attempts, again.in_doubt, again.uuid) == (first, 2, True, row.uuid)


async def test_postponed_row_that_was_not_sent_is_not_in_doubt(tenant: Tenant, store: PostgresOutboxStore) -> None:
    lease = LeaseEpoch(tenant.installation_id, 1)
    await add_row(tenant)
    (row,) = await store.take_due(lease, busy=(), rows_max=10)
    await store.postpone(lease, row, 0.0, 0, "slow down", doubtful=False)
    (again,) = await store.take_due(lease, busy=(), rows_max=10)
    assert not again.in_doubt
    await store.postpone(lease, again, 0.0, 0, "away", doubtful=True)
    (third,) = await store.take_due(lease, busy=(), rows_max=10)
    await store.postpone(lease, third, 0.0, 0, "slow down", doubtful=False)
    (fourth,) = await store.take_due(lease, busy=(), rows_max=10)
    assert fourth.in_doubt


async def test_row_of_a_dead_holder_is_taken_over_with_its_key(tenant: Tenant, store: PostgresOutboxStore) -> None:
    row_id = await add_row(tenant)
    (left,) = await store.take_due(LeaseEpoch(tenant.installation_id, 1), busy=(), rows_max=10)
    assert left.idle_seconds == 0
    await tenant.sql("update outbound_message set last_attempt_at = now() - interval '42 seconds'")
    successor = await new_holder(tenant)
    assert await store.seconds_to_next(successor, busy=()) == pytest.approx(0, abs=1)
    (taken,) = await store.take_due(successor, busy=(), rows_max=10)
    assert (taken.id, taken.uuid, taken.attempts, taken.in_doubt) == (row_id, left.uuid, 2, True)
    assert taken.idle_seconds == pytest.approx(42, abs=2)


async def test_stale_holder_can_neither_take_nor_write(tenant: Tenant, store: PostgresOutboxStore) -> None:
    stale = LeaseEpoch(tenant.installation_id, 1)
    row_id = await add_row(tenant)
    (row,) = await store.take_due(stale, busy=(), rows_max=10)
    successor = await new_holder(tenant)
    assert await store.take_due(stale, busy=(), rows_max=10) == []
    assert await store.seconds_to_next(stale, busy=()) is None
    await store.take_due(successor, busy=(), rows_max=10)
    before = await row_of(tenant, row_id)
    assert not await store.mark_sent(stale, row_id, "om_stale")
    assert not await store.mark_failed(stale, row_id, 1, "stale")
    assert not await store.postpone(stale, row, 1.0, 1, "stale", doubtful=True)
    assert not await store.mark_unknown(stale, row_id, 1, "stale")
    assert not await store.clear_doubt(stale, row_id)
    assert await row_of(tenant, row_id) == before
    assert await store.mark_sent(successor, row_id, "om_1")
    assert (await row_of(tenant, row_id))["channel_message_id"] == "om_1"


async def test_mark_of_a_settled_row_changes_nothing(tenant: Tenant, store: PostgresOutboxStore) -> None:
    lease = LeaseEpoch(tenant.installation_id, 1)
    row_id = await add_row(tenant)
    await store.take_due(lease, busy=(), rows_max=10)
    assert await store.mark_sent(lease, row_id, "om_1")
    assert not await store.mark_failed(lease, row_id, 1, "late")
    assert (await row_of(tenant, row_id))["status"] == "sent"


async def test_failed_answer_is_told_of_once_in_its_own_place_and_language(
    pool: Pool, store: PostgresOutboxStore
) -> None:
    tenant = await open_tenant(pool, language="zh-Hans")
    session = await tenant.add_session(thread_id="omt_1", config={"chat_id": "oc_real"})
    assignment = await tenant.running(session)
    await tenant.service.complete(tenant.runtime, assignment.claim.identity, "hello")
    (answer,) = await tenant.outbox()
    await tenant.sql(
        "insert into outbound_message (id, workspace_id, installation_id, task_id, kind, part, recipient_id, uuid)"
        " select gen_random_uuid(), workspace_id, installation_id, task_id, kind, 1, 'oc_other', 'second part'"
        " from outbound_message"
    )
    lease, words = LeaseEpoch(tenant.installation_id, 1), in_every_language(Reply.ANSWER_UNDELIVERED)
    rows = await store.take_due(lease, busy=(), rows_max=10)
    assert len(rows) == 2
    assert not await store.mark_failed(LeaseEpoch(tenant.installation_id, 0), rows[0].id, 230002, "stale", told=words)
    for row in sorted(rows, key=lambda row: row.id != answer["id"]):
        assert await store.mark_failed(lease, row.id, 230002, "bot not in chat", told=words)
    (notice,) = [row for row in await tenant.outbox() if row["kind"] == "notice"]
    assert notice["content"] == words["zh-Hans"]
    assert notice["status"] == "queued"
    same = ("task_id", "chat_session_id", "recipient_type", "recipient_id", "thread_id", "reply_to_message_id")
    assert {name: notice[name] for name in same} == {name: answer[name] for name in same}
    (row,) = await store.take_due(lease, busy=(), rows_max=10)
    assert row.id == notice["id"]
    assert await store.mark_failed(lease, row.id, 230002, "bot not in chat")
    assert await store.take_due(lease, busy=(), rows_max=10) == []


async def test_row_in_doubt_says_since_when_until_the_doubt_is_cleared(
    tenant: Tenant, store: PostgresOutboxStore
) -> None:
    lease = LeaseEpoch(tenant.installation_id, 1)
    row_id = await add_row(tenant)
    (first,) = await store.take_due(lease, busy=(), rows_max=10)
    assert (first.first_attempt_at, first.doubt_seconds, first.in_doubt) == (None, None, False)
    await tenant.sql("update outbound_message set first_attempt_at = now() - interval '56 minutes'")
    (again,) = await store.take_due(lease, busy=(), rows_max=10)
    assert again.first_attempt_at is not None
    assert again.doubt_seconds == pytest.approx(56 * 60, abs=30)
    assert await store.clear_doubt(lease, row_id)
    (anew,) = await store.take_due(lease, busy=(), rows_max=10)
    assert (anew.in_doubt, anew.attempts, anew.uuid) == (False, 3, first.uuid)


async def test_row_nobody_knows_of_is_shown_and_never_taken_again(tenant: Tenant, store: PostgresOutboxStore) -> None:
    lease = LeaseEpoch(tenant.installation_id, 1)
    row_id = await add_row(tenant)
    await store.take_due(lease, busy=(), rows_max=10)
    assert not await store.mark_unknown(LeaseEpoch(tenant.installation_id, 0), row_id, 0, "stale holder")
    assert await store.mark_unknown(lease, row_id, 230027, "the chat cannot be read")
    row = await row_of(tenant, row_id)
    assert (row["status"], row["error_code"], row["error"]) == ("unknown", 230027, "the chat cannot be read")
    assert await store.take_due(lease, busy=(), rows_max=10) == []
    assert not await store.clear_doubt(lease, row_id)


async def test_messages_known_to_be_sent_since_the_doubt_are_named(tenant: Tenant, store: PostgresOutboxStore) -> None:
    lease = LeaseEpoch(tenant.installation_id, 1)
    before, doubtful = await add_row(tenant, "before"), await add_row(tenant, "doubtful")
    (first,) = await store.take_due(lease, busy=(), rows_max=1)
    assert first.id == before
    await store.mark_sent(lease, before, "om_before")
    await tenant.sql("update outbound_message set sent_at = now() - interval '1 hour'")
    (row,) = await store.take_due(lease, busy=(), rows_max=1)
    after, elsewhere = await add_row(tenant, "after"), await add_row(tenant, "elsewhere", "oc_2")
    await tenant.sql("update outbound_message set status = 'sending', lease_epoch = 1 where status = 'queued'")
    await store.mark_sent(lease, after, "om_after")
    await store.mark_sent(lease, elsewhere, "om_elsewhere")
    assert (row.id, await store.list_sent(row)) == (doubtful, ["om_after"])


class _Killed(BaseException):
    """Stands for kill -9: nothing after it runs, except that Python unwinds."""


@pytest.mark.parametrize("point", ["outbox.marked_sending", "outbox.sent_unmarked", "outbox.marked_sent"])
async def test_sender_killed_anywhere_leaves_one_visible_message(
    tenant: Tenant, store: PostgresOutboxStore, point: str
) -> None:
    platform = ToyPlatform()
    row_id = await add_row(tenant)

    def kill(name: str) -> None:
        if name == point:
            raise _Killed

    watch_points(kill)
    try:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with sending(store, platform, installation_id=tenant.installation_id):
                await trio.sleep(10)
        assert caught.group_contains(_Killed)
    finally:
        watch_points(None)
    successor = await new_holder(tenant)

    async def is_sent() -> bool:
        return bool((await row_of(tenant, row_id))["status"] == "sent")

    async with sending(store, platform, installation_id=tenant.installation_id, epoch=successor.epoch):
        await until(is_sent)
    assert platform.visible == [("oc_1", "hello")]
    assert {call.idempotency_key for call in platform.calls} == {str(row_id)}


async def test_new_row_rings_the_sender(tenant: Tenant, store: PostgresOutboxStore, database: str) -> None:
    platform = ToyPlatform()
    async with sending(store, platform, installation_id=tenant.installation_id) as wake, trio.open_nursery() as nursery:
        await nursery.start(
            run_listener, lambda: TrioConnection.connect(database), {"gateway_outbound": lambda _payload: wake.set()}
        )
        start = trio.current_time()
        await add_row(tenant)

        async def arrived() -> bool:
            return bool(platform.visible)

        await until(arrived)
        assert trio.current_time() - start < 5
        nursery.cancel_scope.cancel()


async def test_sender_many_chats_with_trouble_deliver_each_row_once_in_order(
    tenant: Tenant, store: PostgresOutboxStore
) -> None:
    platform = ToyPlatform()
    for number in range(10):
        for chat in range(6):
            text = f"{chat}.{number}"
            await add_row(tenant, text, f"oc_{chat}")
            if number % 4 == 1:
                platform.before[text] = [raising(PlatformThrottled("slow", retry_after=0.01))]
            if chat == 3 and number == 2:
                platform.after[text] = [raising(PlatformUnavailable("reset"))]

    async def all_sent() -> bool:
        return not await tenant.sql("select id from outbound_message where status <> 'sent'")

    async with sending(store, platform, installation_id=tenant.installation_id):
        await until(all_sent)
    for chat in range(6):
        assert platform.texts(f"oc_{chat}") == [f"{chat}.{number}" for number in range(10)]


async def test_sender_is_idle_between_signals(tenant: Tenant, store: PostgresOutboxStore) -> None:
    """A row that cannot be taken must not make the loop spin."""
    looks = 0

    class Counting(PostgresOutboxStore):
        async def take_due(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal looks
            looks += 1
            return await super().take_due(*args, **kwargs)

    await add_row(tenant)
    await new_holder(tenant)
    async with sending(Counting(tenant.pool), ToyPlatform(), installation_id=tenant.installation_id, epoch=1) as wake:
        assert isinstance(wake, Signal)
        await trio.sleep(0.3)
    assert looks <= 2


@pytest.mark.parametrize("code", [7, 2**63, -(2**63), 10**30])
async def test_refusal_in_words_and_numbers_no_column_holds_is_still_final(
    tenant: Tenant, store: PostgresOutboxStore, code: int
) -> None:
    """Else the row stays `sending`, is sent again every second, and holds its chat back for an hour."""
    platform = ToyPlatform()
    platform.before["hello"] = [raising(PlatformRefused("no\x00 and half \ud800", code=code))]
    row_id = await add_row(tenant)

    async def is_failed() -> bool:
        return bool((await row_of(tenant, row_id))["status"] == "failed")

    async with sending(store, platform, installation_id=tenant.installation_id):
        await until(is_failed)
    stored = await row_of(tenant, row_id)
    assert (stored["error"], stored["error_code"]) == ("no and half ?", 7 if code == 7 else None)
