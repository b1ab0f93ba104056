"""Events that Lark posts, over the route, through the pipeline, on a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from gateway.channel.channel import Verdict
from gateway.channel.errors import PlatformUnavailable
from gateway.concurrency import Topics
from gateway.errors import StoreUnavailable
from gateway.http.app import JsonApp, Services, create_app
from gateway.inbound.committer import Committer, run_committer
from gateway.inbound.pipeline import InboundPipeline
from gateway.keyring import KeyRing
from gateway.lark.api.client import BotIdentity
from gateway.lark.api.region import Region
from gateway.lark.chat.push import PushedEvents
from gateway.lark.install.service import InstallationService, NewApp
from gateway.observe.health import Readiness
from gateway.postgres.inbound_store import PostgresInboundStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from gateway.postgres.push_store import PostgresPushStore
from gateway.postgres.task_store import PostgresTaskStore
from gateway.work.tasks.tasks import TaskService
from support.lark_directory import Place, add_person, add_place
from support.posted import KEY, TOKEN, Posted, challenge, encrypted, message_event, signed
from support.recording import Recording

RING = KeyRing([b"\x07" * 32])
APP_ID = "cli_0123456789abcdef"
event = partial(message_event, app_id=APP_ID)


async def nobody(_token: str) -> None:
    return None


@dataclass
class Door:
    """The route, with an installation behind it."""

    pool: Pool
    place: Place
    app: JsonApp
    pushed: PushedEvents
    service: InstallationService
    installation_id: UUID = field(init=False)
    recorder: Recording = field(default_factory=Recording)

    async def install(self, **changes: Any) -> None:
        fields = {"event_mode": "http", "encrypt_key": KEY, "verification_token": TOKEN} | changes
        added = await self.service.add(NewApp(self.place.agent_id, APP_ID, "fake-app-secret", **fields))
        self.installation_id = added.installation.id

    async def post(self, posted: Posted, installation: object = None) -> tuple[int, Any]:
        path = f"/api/webhooks/lark/{self.installation_id if installation is None else installation}"
        response = await self.app.test_client().post(path, headers=posted.headers, data=posted.body)
        return response.status_code, msgspec.json.decode(await response.get_data())

    async def bind(self, open_id: str = "ou_ann") -> None:
        await self.run(
            "insert into channel_user_binding (id, workspace_id, user_id, installation_id, channel_type,"
            " channel_user_id) values (%s, %s, %s, %s, 'feishu', %s)",
            *(uuid4(), self.place.workspace_id, self.place.owner_id, self.installation_id, open_id),
        )

    async def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        async with self.pool.connection() as conn:
            cursor = await conn.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

    async def words(self) -> list[str]:
        return [text for (text,) in await self.run("select content from chat_message order by created_at, id")]

    async def reasons(self) -> list[str]:
        return [reason for (reason,) in await self.run("select drop_reason from channel_inbound_audit")]


async def learn_stored(_installation_id: UUID, opened: Any) -> BotIdentity:
    return BotIdentity(opened.get("bot_open_id", ""))


async def identify(_app_id: str, _app_secret: str, _region: Region) -> BotIdentity:
    return BotIdentity("ou_bot")


def build(pool: Pool, place: Place, handler: Any, ring: KeyRing | None = RING, learn: Any = learn_stored) -> Door:
    recorder = Recording()
    pushed = PushedEvents(PostgresPushStore(pool), ring, handler, learn, recorder=recorder)
    tasks = TaskService(PostgresTaskStore(pool), Topics())
    services = Services(nobody, tasks, Readiness(), recorder, take_lark_event=pushed.take, body_bytes_max=4096)
    service = InstallationService(PostgresInstallationStore(pool), RING, identify)
    return Door(pool, place, create_app(services), pushed, service, recorder)


@pytest.fixture
async def place(pool: Pool) -> Place:
    return await add_place(pool)


@pytest.fixture
async def door(pool: Pool, place: Place) -> AsyncIterator[Door]:
    store, committer = PostgresInboundStore(pool, batch_window_seconds=0), Committer()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(run_committer, committer, store))
        door = build(pool, place, InboundPipeline(store, committer).receive)
        await door.install()
        yield door
        nursery.cancel_scope.cancel()


async def test_challenge_of_the_console_is_echoed(door: Door) -> None:
    headers = {"Content-Type": "application/json"}
    assert await door.post(Posted(headers, encrypted(challenge("abc")))) == (200, {"challenge": "abc"})


async def test_event_is_answered_once_it_is_stored_and_stored_once(door: Door) -> None:
    await door.bind()
    for _ in range(2):
        assert await door.post(signed(encrypted(event("hello")))) == (200, {"msg": "success"})
    assert await door.words() == ["hello"]
    assert door.recorder.seen("channel_ack_seconds") == [("feishu", "200")] * 2
    assert await door.run("select processed_at is not null from channel_inbound_message_dedup") == [(True,)]


async def test_event_needs_no_lease_and_opens_no_link(door: Door) -> None:
    await door.bind()
    assert (await door.post(signed(encrypted(event()))))[0] == 200
    assert await door.run("select ws_lease_token from channel_installation") == [(None,)]


async def test_stranger_is_asked_to_bind_like_over_the_long_connection(door: Door) -> None:
    assert (await door.post(signed(encrypted(event("my secret words")))))[0] == 200
    assert await door.reasons() == ["unbound_user"]
    assert await door.run("select kind, recipient_id from outbound_message") == [("binding_prompt", "ou_ann")]
    assert await door.words() == []


async def test_mention_in_a_group_addresses_the_bot(door: Door) -> None:
    await door.bind()
    mentions = [{"key": "@_user_1", "id": {"open_id": "ou_bot"}, "name": "Bot"}]
    body = event("@_user_1 hello", chat_type="group", mentions=mentions)
    assert (await door.post(signed(encrypted(body))))[0] == 200
    assert await door.words() == ["hello"]


async def test_event_of_another_kind_or_app_is_settled_and_dropped(door: Door) -> None:
    reaction = b'{"schema":"2.0","header":{"event_type":"im.message.reaction.created_v1"},"event":{}}'
    for body in (reaction, event(message_id="om_9").replace(APP_ID.encode(), b"cli_ffffffffffffffff")):
        assert await door.post(signed(encrypted(body))) == (200, {"msg": "success"})
    assert await door.words() == []


async def test_revoked_installation_drops_what_is_verified_and_refuses_the_rest(door: Door) -> None:
    await door.bind()
    await door.service.revoke(door.installation_id)
    assert await door.post(signed(encrypted(event()))) == (200, {"msg": "success"})
    assert await door.reasons() == ["revoked_installation"]
    assert (await door.post(Posted({}, encrypted(event()))))[0] == 401


@pytest.mark.parametrize(
    ("make", "status", "code"),
    [
        (lambda: Posted({}, encrypted(event())), 401, "bad_signature"),
        (lambda: signed(encrypted(event()), "another key"), 401, "bad_signature"),
        (lambda: signed(encrypted(event(token="another"))), 401, "bad_token"),
        (lambda: signed(encrypted(event()), at=datetime.now(UTC) - timedelta(minutes=30)), 401, "stale_timestamp"),
        (lambda: signed(b"nonsense"), 400, "invalid_body"),
        (lambda: Posted({}, b""), 401, "bad_signature"),
        (lambda: Posted({}, b"x" * 5000), 413, "body_too_large"),
    ],
)
async def test_body_that_is_not_the_platforms_is_refused_in_words(
    door: Door, make: Callable[[], Posted], status: int, code: str
) -> None:
    """Made when it is sent: one that was signed while tests were collected would be stale by now."""
    with capture_logs() as logs:
        answer = await door.post(make())
    assert (answer[0], answer[1]["code"]) == (status, code)
    for secret in (KEY, TOKEN, "hello"):
        assert secret not in str(logs) + str(answer)
    assert await door.run("select * from channel_inbound_audit") == []


async def test_token_alone_vouches_without_an_encrypt_key(door: Door) -> None:
    await door.install(encrypt_key="")
    await door.bind()
    assert (await door.post(Posted({}, event("plain"))))[0] == 200
    assert (await door.post(Posted({}, event("forged", token="guess", message_id="om_2"))))[0] == 401
    assert await door.words() == ["plain"]


async def test_unknown_installation_is_404_and_one_with_a_long_connection_409(door: Door) -> None:
    posted = signed(encrypted(event()))
    for unknown in (uuid4(), "nonsense", UUID(int=0)):
        assert (await door.post(posted, unknown))[0] == 404
    await door.install(event_mode="socket")
    assert (await door.post(posted))[1]["code"] == "not_in_http_mode"


async def test_installation_of_a_deleted_agent_is_404(door: Door) -> None:
    await door.run("delete from agent")
    assert (await door.post(signed(encrypted(event()))))[0] == 404


async def test_secret_that_does_not_open_is_503(door: Door, pool: Pool, place: Place) -> None:
    for ring, code in ((KeyRing([b"\x08" * 32]), "unreadable_secret"), (None, "lark_off")):
        other = build(pool, place, None, ring)
        other.installation_id = door.installation_id
        status, answer = await other.post(signed(encrypted(event())))
        assert (status, answer["code"]) == (503, code)


@pytest.mark.parametrize("failure", [StoreUnavailable("away"), RuntimeError("a bug with my secret words")])
async def test_failure_asks_for_a_redelivery(pool: Pool, place: Place, failure: Exception) -> None:
    async def fail(_message: object) -> None:
        raise failure

    door = build(pool, place, fail)
    await door.install()
    status, answer = await door.post(signed(encrypted(event())))
    assert (status, answer["code"]) == (500, "redeliver")
    assert "secret" not in str(answer)
    assert door.recorder.seen("channel_ack_seconds") == [("feishu", "500")]


async def test_claim_in_flight_elsewhere_asks_for_a_redelivery(door: Door) -> None:
    await door.bind()
    claim = "insert into channel_inbound_message_dedup (installation_id, message_id, claim_token) values (%s, %s, %s)"
    await door.run(claim, door.installation_id, "om_1", uuid4())
    assert (await door.post(signed(encrypted(event()))))[0] == 500
    await door.run("delete from channel_inbound_message_dedup")
    assert (await door.post(signed(encrypted(event()))))[0] == 200


async def test_time_of_the_last_event_is_stored_beside_the_holders_state(door: Door) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(door.pushed.run)
        assert (await door.post(signed(encrypted(event()))))[0] == 200
        with trio.fail_after(5):
            while (view := (await door.service.list())[0]).last_event_at is None:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert await door.run("select state, node from channel_connection") == [("http", "")]
    await door.run("update channel_connection set state = 'unreadable_secret', last_event_at = null")
    await PostgresPushStore(door.pool).heard([door.installation_id, uuid4()], [])
    ((state, heard),) = await door.run("select state, last_event_at from channel_connection")
    assert (state, heard is not None) == ("unreadable_secret", True)
    assert view.state == "standby"  # nobody holds its lease here, so nobody would answer


async def test_bot_whose_posted_event_was_not_settled_is_degraded(
    pool: Pool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.lark.chat.push.HEARD_EVERY_SECONDS", 0.05)

    async def fail(_message: object) -> None:
        raise StoreUnavailable("away")

    door = build(pool, place, fail)
    await door.install()
    async with trio.open_nursery() as nursery:
        await nursery.start(door.pushed.run)
        assert (await door.post(signed(encrypted(event()))))[0] == 500
        with trio.fail_after(5):
            while await door.run("select 1 from channel_connection where degraded_until > now()") == []:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert await door.run("select state, last_event_at is not null from channel_connection") == [("http", True)]


async def test_chat_with_too_many_waiting_events_is_refused_at_once(
    pool: Pool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.lark.chat.push.CHAT_WAITING_MAX", 2)
    go_on, statuses = trio.Event(), list[int]()

    async def hang(_message: Any) -> Any:
        await go_on.wait()
        return Verdict.SETTLED

    async def post(number: int, chat_id: str) -> None:
        body = encrypted(event(message_id=f"om_{number}", chat_id=chat_id))
        statuses.append((await door.post(signed(body)))[0])

    door = build(pool, place, hang)
    await door.install()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(post, number, "oc_stuck")
            while len(statuses) < 3:
                await trio.sleep(0.01)
            assert statuses == [500] * 3
            go_on.set()
    assert sorted(statuses) == [200] * 3 + [500] * 3


async def test_events_of_one_chat_are_decided_in_the_order_they_came(pool: Pool, place: Place) -> None:
    began: list[str] = []
    go_on = trio.Event()

    async def slow(message: Any) -> Any:
        began.append(message.message_id)
        await go_on.wait()
        raise PlatformUnavailable("enough")

    door = build(pool, place, slow)
    await door.install()
    async with trio.open_nursery() as nursery:
        for message_id, chat_id in (("om_1", "oc_1"), ("om_2", "oc_1"), ("om_3", "oc_2")):
            nursery.start_soon(door.post, signed(encrypted(event(message_id=message_id, chat_id=chat_id))))
            with trio.move_on_after(0.2):
                while message_id not in began:
                    await trio.sleep(0.01)
        assert began == ["om_1", "om_3"]
        go_on.set()
    assert began == ["om_1", "om_3", "om_2"]
    assert door.pushed._turns._lines == {}


async def test_person_of_another_installation_stays_a_stranger(door: Door) -> None:
    await add_person(door.pool, "bob@acme.example")
    await door.bind("ou_someone_else")
    assert (await door.post(signed(encrypted(event()))))[0] == 200
    assert await door.reasons() == ["unbound_user"]


@pytest.mark.parametrize("sort", ["forged", "unknown installation", "no id at all", "wrong token"])
async def test_bad_posts_of_one_address_are_throttled_and_good_ones_never(door: Door, sort: str) -> None:
    await door.bind()
    installation: object = {"unknown installation": uuid4(), "no id at all": "x"}.get(sort)
    bad = signed(encrypted(event(token="another"))) if sort == "wrong token" else Posted({}, encrypted(event()))
    refused = [(await door.post(bad, installation))[0] for _ in range(30)]
    assert set(refused) == {404 if installation else 401}
    path = f"/api/webhooks/lark/{installation or door.installation_id}"
    response = await door.app.test_client().post(path, headers=bad.headers, data=bad.body)
    assert response.status_code == 429
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert await door.post(signed(encrypted(event("hello")))) == (200, {"msg": "success"})
    assert await door.words() == ["hello"]
    assert (await door.post(bad, installation))[0] == 429


async def test_good_posts_count_for_nothing(door: Door) -> None:
    await door.bind()
    for number in range(40):
        assert (await door.post(signed(encrypted(event(message_id=f"om_{number}")))))[0] == 200
    assert (await door.post(Posted({}, encrypted(event()))))[0] == 401


async def test_bad_posts_are_counted_per_address(door: Door) -> None:
    bad = Posted({}, encrypted(event()))

    async def post(peer: str) -> int:
        path = f"/api/webhooks/lark/{door.installation_id}"
        response = await door.app.test_client().post(path, data=bad.body, scope_base={"client": (peer, 1)})
        return response.status_code

    assert [await post("192.0.2.1") for _ in range(31)] == [401] * 30 + [429]
    assert await post("192.0.2.2") == 401
    assert [await post(f"2001:db8::{number}") for number in range(31)] == [401] * 30 + [429]
