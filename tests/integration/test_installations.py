from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
from psycopg.types.json import Jsonb

from gateway.channel.installation import BotInPlace
from gateway.errors import Conflict
from gateway.keyring import KeyRing
from gateway.lark.api.client import BotIdentity
from gateway.lark.api.region import Region
from gateway.lark.install.service import InstallationService, NewApp
from gateway.postgres.binding_store import PostgresBindingStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from support.lark_directory import Place, add_agent, add_member, add_person, add_place

RING = KeyRing([b"\x07" * 32])
APP_ID = "cli_0123456789abcdef"
OTHER_APP_ID = "cli_fedcba9876543210"


class Platform:
    def __init__(self) -> None:
        self.bot = BotIdentity("ou_bot", "on_bot")

    async def identify(self, _app_id: str, _app_secret: str, _region: Region) -> BotIdentity:
        return self.bot


@pytest.fixture
async def place(pool: Pool) -> Place:
    return await add_place(pool)


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
def service(pool: Pool, platform: Platform) -> InstallationService:
    return InstallationService(PostgresInstallationStore(pool), RING, platform.identify)


def app(agent_id: UUID, **changes: Any) -> NewApp:
    return replace(NewApp(agent_id=agent_id, app_id=APP_ID, app_secret="fake-app-secret"), **changes)


async def run(pool: Pool, statement: str, *values: Any) -> None:
    async with pool.connection() as conn:
        await conn.execute(statement, values)  # type: ignore[arg-type]


async def rows(pool: Pool, statement: str, *values: Any) -> list[Any]:
    async with pool.connection() as conn:
        return list(await (await conn.execute(statement, values)).fetchall())  # type: ignore[arg-type]


async def lease(pool: Pool, installation_id: UUID, seconds: float) -> None:
    await run(
        pool,
        "update channel_installation set ws_lease_token = 'node-g1', lease_epoch = 4, "
        "ws_lease_expires_at = now() + make_interval(secs => %s) where id = %s",
        seconds,
        installation_id,
    )


async def test_add_makes_an_active_row_owned_by_the_workspace_owner(
    service: InstallationService, pool: Pool, place: Place
) -> None:
    added = (await service.add(app(place.agent_id))).installation
    assert (added.workspace_id, added.agent_id, added.app_id) == (place.workspace_id, place.agent_id, APP_ID)
    assert (added.status, added.state, added.details["bot_open_id"]) == ("active", "standby", "ou_bot")
    assert added.installer_user_id == place.owner_id
    ((config,),) = await rows(pool, "select config from channel_installation where id = %s", added.id)
    assert RING.open_text(config["app_secret_encrypted"], owner=added.id) == "fake-app-secret"
    assert added.settings == {name: value for name, value in config.items() if name != "app_secret_encrypted"}
    assert await service.list() == await service.list(place.workspace_id) == [added]
    assert await service.list(uuid4()) == []


async def test_add_again_replaces_credentials_and_leaves_the_lease(
    service: InstallationService, pool: Pool, place: Place
) -> None:
    first = (await service.add(app(place.agent_id))).installation
    await lease(pool, first.id, 30)
    columns = "ws_lease_token, ws_lease_expires_at, lease_epoch, created_at"
    before = await rows(pool, f"select {columns} from channel_installation")
    second = (await service.add(app(place.agent_id, app_secret="fake-rotated", region="lark"))).installation
    assert second.id == first.id
    assert second.details["region"] == "lark"
    assert await rows(pool, f"select {columns} from channel_installation") == before
    ((sealed,),) = await rows(pool, "select config ->> 'app_secret_encrypted' from channel_installation")
    assert RING.open_text(sealed, owner=first.id) == "fake-rotated"


async def test_add_of_a_revoked_installation_brings_it_back_with_its_people(
    service: InstallationService, pool: Pool, place: Place
) -> None:
    first = (await service.add(app(place.agent_id))).installation
    await bind(pool, place, first.id)
    assert (await service.revoke(first.id)).status == "revoked"
    again = (await service.add(app(place.agent_id))).installation
    assert (again.id, again.status) == (first.id, "active")
    assert await rows(pool, "select channel_user_id from channel_user_binding") == [("ou_1",)]


@pytest.mark.parametrize("revoked", [False, True])
@pytest.mark.parametrize("app_id", [APP_ID, OTHER_APP_ID])
async def test_add_again_replaces_the_whole_config(
    service: InstallationService, platform: Platform, pool: Pool, place: Place, app_id: str, revoked: bool
) -> None:
    first = (await service.add(app(place.agent_id, allow_bots=True))).installation
    extra = {"tenant_key": "t", "bot_union_id": "on_bot", "allow_mention_all": True, "left_over": 1}
    held = "lease_epoch = 7, ws_lease_token = 'n-g1', ws_lease_expires_at = now()"
    await run(pool, f"update channel_installation set config = config || %s, {held}", Jsonb(extra))
    if revoked:
        await service.revoke(first.id)
    lease = "select lease_epoch, ws_lease_token, ws_lease_expires_at from channel_installation"
    before = await rows(pool, lease)
    platform.bot = BotIdentity("")
    again = (await service.add(app(place.agent_id, app_id=app_id, replaces=True))).installation
    assert (again.id, again.status, again.details["bot_open_id"]) == (first.id, "active", "")
    ((config,),) = await rows(pool, "select config from channel_installation")
    assert sorted(config) == ["app_id", "app_secret_encrypted", "event_mode", "region"]
    assert await rows(pool, lease) == before


async def test_add_of_another_app_leaves_a_live_bot_in_place_and_names_it(
    service: InstallationService, platform: Platform, pool: Pool, place: Place
) -> None:
    first = (await service.add(app(place.agent_id))).installation
    await bind(pool, place, first.id)
    dead = (await service.add(app(await add_agent(pool, place.workspace_id, "bob"), app_id=OTHER_APP_ID))).installation
    await service.revoke(dead.id)
    everything = "select to_jsonb(i) from channel_installation i order by id"
    before = await rows(pool, everything)
    with pytest.raises(Conflict) as refused:
        await service.add(app(place.agent_id, app_id=OTHER_APP_ID))
    assert refused.value.code == "agent_has_bot"
    assert refused.value.extra["app_id"] == APP_ID
    for word in ("ada", APP_ID, str(first.id), "--replace", "Accounts linked to it (1)", "conversations (0)"):
        assert word in str(refused.value)
    # Also when the bot appears between the look and the write, which then writes nothing at all.
    store = PostgresInstallationStore(pool)
    draft = await service.draft(app(place.agent_id, app_id=OTHER_APP_ID), place.owner_id, platform.bot)
    assert await store.save(draft) == BotInPlace(first.id, APP_ID, accounts=1, conversations=0)
    assert await rows(pool, everything) == before


async def test_add_of_another_app_that_replaces_keeps_the_row_and_what_hangs_on_it(
    service: InstallationService, pool: Pool, place: Place
) -> None:
    first = (await service.add(app(place.agent_id))).installation
    await bind(pool, place, first.id)
    store = PostgresBindingStore(pool)
    await store.mint("1" * 64, first.id, "ou_eve")
    second = (await service.add(app(place.agent_id, app_id=OTHER_APP_ID, replaces=True))).installation
    assert await rows(pool, "select 1 from channel_binding_token") == []
    await store.mint("2" * 64, first.id, "ou_eve")
    await service.add(app(place.agent_id, app_id=OTHER_APP_ID, app_secret="fake-rotated"))
    assert await rows(pool, "select token_hash from channel_binding_token") == [("2" * 64,)]
    assert (second.id, second.app_id, second.status) == (first.id, OTHER_APP_ID, "active")
    assert await rows(pool, "select channel_user_id from channel_user_binding") == [("ou_1",)]


async def test_add_of_another_app_needs_no_word_where_the_bot_is_revoked(
    service: InstallationService, place: Place
) -> None:
    first = (await service.add(app(place.agent_id))).installation
    await service.revoke(first.id)
    assert (await service.add(app(place.agent_id, app_id=OTHER_APP_ID))).installation.app_id == OTHER_APP_ID


async def test_two_apps_added_to_one_agent_at_once_are_one_bot(service: InstallationService, place: Place) -> None:
    added: list[str] = []
    refused: list[str] = []

    async def add(app_id: str) -> None:
        try:
            added.append((await service.add(app(place.agent_id, app_id=app_id))).installation.app_id)
        except Conflict as error:
            refused.append(error.code)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(add, f"{APP_ID}{number}")
    assert (len(added), refused) == (1, ["agent_has_bot"] * 3)
    assert [bot.app_id for bot in await service.list()] == added


async def test_add_announces_itself_to_the_daemons(service: InstallationService, pool: Pool, place: Place) -> None:
    async with pool.connection() as listening:
        await listening.execute("listen gateway_installation")
        heard: list[str] = []

        async def add() -> None:
            heard.append(str((await service.add(app(place.agent_id))).installation.id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add)
        while True:
            await listening.execute("select 1")
            if announced := [notification.payload async for notification in listening.notifies(timeout=0.01)]:
                break
    assert announced == heard


async def test_add_of_a_live_app_for_another_agent_is_a_conflict(
    service: InstallationService, pool: Pool, place: Place
) -> None:
    first = (await service.add(app(place.agent_id))).installation
    other = await add_agent(pool, place.workspace_id, "bob")
    with pytest.raises(Conflict) as raised:
        await service.add(app(other))
    assert raised.value.code == "installation_conflict"
    assert str(first.id) in str(raised.value)
    assert await service.list() == [first]


async def test_add_of_an_app_revoked_under_another_agent_reclaims_its_row_and_dependants(
    service: InstallationService, pool: Pool, place: Place
) -> None:
    dead = (await service.add(app(place.agent_id))).installation
    bystander = (
        await service.add(app(await add_agent(pool, place.workspace_id, "eve"), app_id=APP_ID + "0"))
    ).installation
    for installation in (dead, bystander):
        await add_dependants(pool, place, installation.id)
    await service.revoke(dead.id)
    other = await add_agent(pool, place.workspace_id, "bob")
    taken = (await service.add(app(other))).installation
    assert taken.id != dead.id
    assert taken.agent_id == other
    for table in DEPENDANTS:
        assert await rows(pool, f"select installation_id from {table}") == [(bystander.id,)], table
    assert len(await rows(pool, "select 1 from channel_outbound_card_message")) == 1


@pytest.mark.parametrize("gone", ["agent", "workspace"])
async def test_add_of_an_app_of_an_orphan_reclaims_it(
    service: InstallationService, pool: Pool, place: Place, gone: str
) -> None:
    elsewhere = await add_place(pool, "elsewhere")
    orphan = (await service.add(app(elsewhere.agent_id))).installation
    owner_of = {"agent": elsewhere.agent_id, "workspace": elsewhere.workspace_id}
    await run(pool, f"delete from {gone} where id = %s", owner_of[gone])
    assert await service.list() == []
    taken = (await service.add(app(place.agent_id))).installation
    assert taken.id != orphan.id
    assert await rows(pool, "select id from channel_installation") == [(taken.id,)]


async def test_add_of_a_dead_app_whose_lease_still_runs_waits_for_its_connection(
    service: InstallationService, pool: Pool, place: Place
) -> None:
    dead = (await service.add(app(place.agent_id))).installation
    await lease(pool, dead.id, 30)
    await service.revoke(dead.id)
    other = await add_agent(pool, place.workspace_id, "bob")
    with pytest.raises(Conflict) as raised:
        await service.add(app(other))
    assert raised.value.code == "installation_closing"
    await lease(pool, dead.id, -1)
    assert (await service.add(app(other))).installation.agent_id == other


async def test_add_race_of_two_agents_for_one_app_has_one_winner(
    service: InstallationService, pool: Pool, place: Place
) -> None:
    agents = [place.agent_id, await add_agent(pool, place.workspace_id, "bob")]
    outcomes: list[str] = []

    async def add(agent_id: UUID) -> None:
        try:
            await service.add(app(agent_id))
            outcomes.append("added")
        except Conflict as refusal:
            outcomes.append(refusal.code)

    async with trio.open_nursery() as nursery:
        for agent_id in agents:
            nursery.start_soon(add, agent_id)
    assert sorted(outcomes) == ["added", "installation_conflict"]


async def test_add_race_for_one_agent_leaves_one_readable_secret(
    service: InstallationService, pool: Pool, place: Place
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(service.add, app(place.agent_id))
    ((installation_id, sealed),) = await rows(
        pool, "select id, config ->> 'app_secret_encrypted' from channel_installation"
    )
    assert RING.open_text(sealed, owner=installation_id) == "fake-app-secret"


async def test_add_finds_the_first_owner_and_named_members(
    service: InstallationService, pool: Pool, place: Place
) -> None:
    eve = await add_person(pool, "eve@acme.example")
    await add_member(pool, place.workspace_id, eve, "owner")
    assert (await service.add(app(place.agent_id))).installation.installer_user_id == place.owner_id
    named = app(place.agent_id, installer_email="Eve@acme.example")
    assert (await service.add(named)).installation.installer_user_id == eve


async def test_add_for_an_archived_agent_is_rejected(service: InstallationService, pool: Pool, place: Place) -> None:
    await run(pool, "update agent set archived_at = now() where id = %s", place.agent_id)
    with pytest.raises(Conflict) as raised:
        await service.add(app(place.agent_id))
    assert raised.value.code == "agent_archived"


async def test_revoke_keeps_the_row_and_may_be_repeated(service: InstallationService, pool: Pool, place: Place) -> None:
    added = (await service.add(app(place.agent_id))).installation
    for _ in range(2):
        revoked = await service.revoke(added.id)
        assert (revoked.status, revoked.state) == ("revoked", "revoked")
    assert await rows(pool, "select config ->> 'app_id' from channel_installation") == [(APP_ID,)]


@pytest.mark.parametrize(
    ("stored", "node", "leased", "shown"),
    [
        (None, "", None, "standby"),
        ("live", "n", 30, "live"),
        ("live", "n", -1, "standby"),
        ("connecting", "n", None, "standby"),
        ("deaf", "n", 30, "deaf"),
        # Its holder let go on purpose, and waits before it dials again.
        ("connecting", "", None, "connecting"),
        ("deaf", "", None, "deaf"),
        ("refused", "", None, "refused"),
        ("unreadable_secret", "", None, "unreadable_secret"),
    ],
)
async def test_list_shows_a_state_that_is_true_now(
    *,
    service: InstallationService,
    pool: Pool,
    place: Place,
    stored: str | None,
    node: str,
    leased: float | None,
    shown: str,
) -> None:
    added = (await service.add(app(place.agent_id))).installation
    if stored is not None:
        insert = "insert into channel_connection (installation_id, state, node) values (%s, %s, %s)"
        await run(pool, insert, added.id, stored, node)
    if leased is not None:
        await lease(pool, added.id, leased)
    (view,) = await service.list()
    assert view.state == shown


async def test_list_of_an_installation_for_http_events_says_http(service: InstallationService, place: Place) -> None:
    posted = app(place.agent_id, event_mode="http", verification_token="fake-token")
    assert (await service.add(posted)).installation.state == "http"


async def test_list_of_an_installation_for_http_events_whose_holder_died_says_standby(
    service: InstallationService, pool: Pool, place: Place
) -> None:
    posted = app(place.agent_id, event_mode="http", verification_token="fake-token")
    added = (await service.add(posted)).installation
    await run(pool, "insert into channel_connection (installation_id, state, node) values (%s, 'http', 'n')", added.id)
    await lease(pool, added.id, 30)
    assert [view.state for view in await service.list()] == ["http"]
    await lease(pool, added.id, -1)
    assert [view.state for view in await service.list()] == ["standby"]


DEPENDANTS = (
    "channel_user_binding",
    "channel_chat_session_binding",
    "channel_inbound_message_dedup",
    "channel_inbound_audit",
    "channel_binding_token",
    "channel_connection",
    "channel_typing",
    "outbound_message",
)


async def bind(pool: Pool, place: Place, installation_id: UUID) -> None:
    await run(
        pool,
        "insert into channel_user_binding (id, workspace_id, user_id, installation_id, channel_type, channel_user_id) "
        "values (%s, %s, %s, %s, 'feishu', 'ou_1')",
        *(uuid4(), place.workspace_id, place.owner_id, installation_id),
    )


async def add_dependants(pool: Pool, place: Place, installation_id: UUID) -> None:
    await bind(pool, place, installation_id)
    session = uuid4()
    await run(
        pool,
        "insert into channel_chat_session_binding (id, workspace_id, chat_session_id, installation_id, channel_type, "
        "channel_chat_id, chat_type) values (%s, %s, %s, %s, 'feishu', 'oc_1', 'p2p')",
        *(uuid4(), place.workspace_id, session, installation_id),
    )
    await run(
        pool,
        "insert into channel_outbound_card_message (id, chat_session_id, channel_type, channel_chat_id, "
        "channel_card_message_id, status) values (%s, %s, 'feishu', 'oc_1', 'om_1', 'final')",
        *(uuid4(), session),
    )
    await run(
        pool,
        "insert into channel_inbound_message_dedup (installation_id, message_id, claim_token) values (%s, 'om_1', %s)",
        *(installation_id, uuid4()),
    )
    await run(
        pool,
        "insert into channel_inbound_audit (installation_id, channel_type, drop_reason) "
        "values (%s, 'feishu', 'duplicate')",
        installation_id,
    )
    await run(
        pool,
        "insert into channel_binding_token (token_hash, workspace_id, installation_id, channel_type, channel_user_id, "
        "expires_at) values (%s, %s, %s, 'feishu', 'ou_1', now())",
        *(uuid4().hex * 2, place.workspace_id, installation_id),
    )
    await run(pool, "insert into channel_connection (installation_id, state) values (%s, 'live')", installation_id)
    await run(
        pool,
        "insert into channel_typing (id, workspace_id, installation_id, task_id, channel_message_id, show_before) "
        "values (%s, %s, %s, %s, 'om_1', now())",
        *(uuid4(), place.workspace_id, installation_id, uuid4()),
    )
    await run(
        pool,
        "insert into outbound_message (id, workspace_id, installation_id, kind, recipient_id, uuid) "
        "values (%s, %s, %s, 'answer', 'oc_1', %s)",
        *(uuid4(), place.workspace_id, installation_id, uuid4().hex),
    )
