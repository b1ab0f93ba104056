import base64
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import trio

from gateway.ids import token_hash
from gateway.keyring import KeyRing, generate_key
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from support import legacy_schema
from support.database import fresh_database
from support.lark_directory import add_agent, add_installation, add_person, add_place
from support.legacy_world import OldBot, OldWorld, Shape
from support.terminal import Terminal, open_terminal

KEY = generate_key()
TABLES = {
    "workspace": 1,
    "app_user": 1,
    "member": 1,
    "agent_runtime": 1,
    "agent": 1,
    "chat_session": 2,
    "chat_message": 6,
    "channel_installation": 1,
    "channel_user_binding": 1,
    "channel_chat_session_binding": 2,
    "channel_inbound_message_dedup": 2,
    "channel_inbound_audit": 1,
    "channel_outbound_card_message": 1,
    "channel_binding_token": 1,
}
"""What one bot of the old world brings along."""


@pytest.fixture(params=["lark", "channel"])
def shape(request: pytest.FixtureRequest) -> Shape:
    found: Shape = request.param
    return found


@pytest.fixture
async def old(postgres: str, shape: Shape) -> AsyncIterator[OldWorld]:
    async with (
        fresh_database(postgres, template="template0") as conninfo,
        await TrioConnection.connect(conninfo) as connection,
    ):
        world = OldWorld(conninfo, shape, connection)
        await world.build()
        yield world


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database: str, tmp_path: Path
) -> Iterator[Terminal]:
    with open_terminal(monkeypatch, capsys, database=database, secret_key=KEY, state_dir=tmp_path) as terminal:
        yield terminal


async def rows(pool: Pool, query: str, *values: object) -> list[Any]:
    async with pool.connection() as conn:
        cursor = await conn.execute(query.encode(), values)
        return await cursor.fetchall() if cursor.description else []


async def dump(pool: Pool) -> bytes:
    names = await rows(pool, "select tablename from pg_tables where schemaname = 'public' order by 1")
    held = {name: await rows(pool, f'select to_jsonb(t)::text from "{name}" t order by 1') for (name,) in names}
    return msgspec.json.encode(held)


async def move(terminal: Terminal, old: OldWorld, *more: str, code: int = 0) -> Any:
    return await terminal.json(
        "legacy", "import", "--from", old.conninfo, "--legacy-key-stdin", *more, stdin=f"{old.key}\n", code=code
    )


def counts(report: Any, what: str) -> dict[str, int]:
    return {table: tally[what] for table, tally in report["tables"].items() if tally[what]}


async def test_import_moves_everything_once_and_only_reads_the_old_database(
    terminal: Terminal, old: OldWorld, pool: Pool
) -> None:
    await old.add_bot(bot_union_id="on_bot", region="lark")
    before = await old.dump()
    report = await move(terminal, old)
    assert (report["dry_run"], report["source"], report["conflicts"]) == (False, old.shape, [])
    assert counts(report, "new") == TABLES
    assert list(report["tables"]) == list(TABLES)
    here = await dump(pool)
    again = await move(terminal, old)
    assert (counts(again, "new"), counts(again, "unchanged"), counts(again, "skipped")) == ({}, TABLES, {})
    assert await dump(pool) == here
    assert await old.dump() == before


async def test_imported_installation_is_sealed_anew_without_a_lease(
    terminal: Terminal, old: OldWorld, pool: Pool
) -> None:
    lark = await old.add_bot(bot_union_id="on_bot", region="lark", tenant_key="tk")
    feishu = await old.add_bot(bot_union_id=None, tenant_key="")
    await move(terminal, old)
    columns = (
        "workspace_id, agent_id, channel_type, status, installer_user_id, installed_at::text, config, "
        "ws_lease_token, ws_lease_expires_at, lease_epoch"
    )
    for bot, said in (
        (lark, {"region": "lark", "bot_union_id": "on_bot", "tenant_key": "tk"}),
        (feishu, {"region": "feishu"}),
    ):
        ((workspace, agent, kind, status, installer, installed_at, config, *lease),) = await rows(
            pool, f"select {columns} from channel_installation where id = %s", bot.id
        )
        assert (workspace, agent, kind, status) == (old.workspace_id, bot.agent_id, "feishu", "active")
        assert (installer, installed_at, lease) == (old.owner_id, "2026-01-02 03:04:05.678901+00", [None, None, 0])
        sealed = config.pop("app_secret_encrypted")
        assert KeyRing.parse(KEY).open_text(sealed, owner=bot.id) == bot.secret
        assert sealed == "".join(sealed.split())
        assert config == {"app_id": bot.app_id, "bot_open_id": f"ou_{bot.app_id}", **said}


async def test_imported_people_and_agents_are_as_they_were(terminal: Terminal, old: OldWorld, pool: Pool) -> None:
    bot = await old.add_bot()
    await old.add("workspace", id=uuid4(), name="Without a bot", slug="other")
    await old.add_person("stranger@example.com", member=False)
    await move(terminal, old)
    assert await rows(pool, "select id, name, slug, issue_prefix, issue_counter from workspace") == [
        (old.workspace_id, "Acme", "acme", "ACM", 41)
    ]
    assert await rows(pool, "select id, email, name, password_hash from app_user") == [
        (old.owner_id, "ada@example.com", "Ada", None)
    ]
    assert await rows(pool, "select workspace_id, user_id, role from member") == [
        (old.workspace_id, old.owner_id, "owner")
    ]
    assert await rows(
        pool, "select id, name, owner_id, runtime_id, visibility, max_concurrent_tasks, archived_at from agent"
    ) == [(bot.agent_id, "agent 1", old.owner_id, old.runtime_id, "workspace", 3, None)]
    assert await rows(pool, "select id, name, kind, last_heartbeat_at from agent_runtime") == [
        (old.runtime_id, "box", "claude", None)
    ]


async def test_imported_bindings_say_what_they_said(terminal: Terminal, old: OldWorld, pool: Pool) -> None:
    bot = await old.add_bot()
    ((secret_hash,),) = await old.rows(f"select token_hash from {old.table('binding_token')}")
    await move(terminal, old)
    assert await rows(
        pool, "select workspace_id, user_id, installation_id, channel_user_id, config from channel_user_binding"
    ) == [(old.workspace_id, old.owner_id, bot.id, f"ou_ada_{bot.app_id}", {"union_id": "on_ada"})]
    assert await rows(
        pool,
        "select workspace_id, chat_session_id, channel_chat_id, chat_type, last_message_id, last_thread_id, config "
        "from channel_chat_session_binding order by channel_chat_id",
    ) == [
        (old.workspace_id, bot.direct_id, "oc_direct", "p2p", "om_1", None, {}),
        (old.workspace_id, bot.group_id, "oc_group", "group", None, None, {}),
    ]
    claims = "select message_id, processed_at is not null, claim_token from {} order by 1"
    assert await rows(pool, claims.format("channel_inbound_message_dedup")) == await old.rows(
        claims.format(old.table("inbound_message_dedup"))
    )
    assert await rows(
        pool, "select channel_chat_id, channel_event_id, channel_message_id, drop_reason from channel_inbound_audit"
    ) == [("oc_direct", "ev_1", "om_9", "unbound_user")]
    assert await rows(
        pool, "select chat_session_id, channel_card_message_id, status from channel_outbound_card_message"
    ) == [(bot.direct_id, "om_card", "final")]
    assert await rows(
        pool, "select token_hash, channel_user_id, expires_at - created_at = '15 minutes' from channel_binding_token"
    ) == [(secret_hash, "ou_stranger", True)]


async def test_imported_past_keeps_its_order_and_waits_for_no_run(
    terminal: Terminal, old: OldWorld, pool: Pool
) -> None:
    bot = await old.add_bot()
    for number in range(1200):
        await old.add(
            "chat_message",
            chat_session_id=bot.direct_id,
            role="user" if number % 2 else "assistant",
            content=f"{number}",
            created_at=f"2026-02-01T00:{number // 60:02}:{number % 60:02}+00:00",
        )
    await move(terminal, old)
    said = await rows(
        pool, "select content, created_at from chat_message where chat_session_id = %s order by seq", bot.direct_id
    )
    assert [content for content, _ in said] == ["direct hello", "direct hi", "direct again", *map(str, range(1200))]
    assert sorted(said, key=lambda row: row[1]) == said
    assert await rows(pool, "select count(*) from chat_message where role = 'user' and task_id is null") == [(0,)]
    assert await rows(pool, "select distinct kind, status from agent_task") == [("chat", "completed")]
    authors = "select distinct author_user_id from chat_message where role = 'user' and chat_session_id = %s"
    assert await rows(pool, authors, bot.direct_id) == [(old.owner_id,)]
    assert await rows(pool, authors, bot.group_id) == [(None,)]


async def test_second_import_brings_what_is_new_and_takes_nothing_back(
    terminal: Terminal, old: OldWorld, pool: Pool
) -> None:
    first = await old.add_bot()
    await move(terminal, old)
    await rows(pool, "update channel_installation set status = 'revoked', config = config || '{\"region\": \"lark\"}'")
    await rows(pool, "update member set role = 'admin'")
    second = await old.add_bot()
    report = await move(terminal, old)
    assert counts(report, "new")["channel_installation"] == 1
    assert counts(report, "unchanged")["channel_installation"] == 1
    assert dict(await rows(pool, "select id, status from channel_installation")) == {
        first.id: "revoked",
        second.id: "active",
    }
    assert await rows(pool, "select role from member") == [("admin",)]


async def test_dry_run_writes_nothing_and_foretells_the_import(terminal: Terminal, old: OldWorld, pool: Pool) -> None:
    await old.add_bot()
    before = await dump(pool)
    foretold = await move(terminal, old, "--dry-run")
    assert foretold["dry_run"] is True
    assert await dump(pool) == before
    assert (await move(terminal, old))["tables"] == foretold["tables"]
    assert (
        await terminal.run("legacy", "import", "--from", old.conninfo, "--legacy-key-stdin", "--dry-run", stdin=old.key)
        == 0
    )
    assert terminal.out.splitlines()[0] == "TABLE\tWOULD BE NEW\tUNCHANGED\tSKIPPED"
    assert "chat_message\t0\t6\t0" in terminal.out
    assert "nothing was written" in terminal.out


async def test_old_server_that_still_runs_is_warned_about(terminal: Terminal, old: OldWorld, pool: Pool) -> None:
    await old.add_bot()
    assert (await move(terminal, old, "--dry-run"))["still_held"] == []
    assert terminal.err == ""
    old.leased_until = "2099-01-01T00:00:00+00:00"
    held = await old.add_bot()
    assert (await move(terminal, old))["still_held"] == [str(held.id)]
    assert terminal.err.startswith("warning: the old server is still connected for 1 of these bots")
    assert await rows(pool, "select distinct ws_lease_token, ws_lease_expires_at from channel_installation") == [
        (None, None)
    ]


async def test_wrong_key_fails_before_anything_is_written(terminal: Terminal, old: OldWorld, pool: Pool) -> None:
    await old.add_bot()
    before = await dump(pool)
    wrong = generate_key()
    assert await terminal.run("legacy", "import", "--from", old.conninfo, "--legacy-key-stdin", stdin=wrong) == 1
    assert terminal.err.count("\n") == 1
    assert terminal.err.startswith("gateway: the legacy key opens the secrets of none of 1 bots")
    assert "MULTICA_LARK_SECRET_KEY" in terminal.err
    assert wrong not in terminal.err
    assert await dump(pool) == before


@pytest.mark.parametrize("shape", ["lark"])
@pytest.mark.parametrize("key", ["", "fake-short", base64.b64encode(b"x" * 31).decode()])
async def test_key_that_is_none_is_refused_in_one_line(terminal: Terminal, old: OldWorld, key: str) -> None:
    assert await terminal.run("legacy", "import", "--from", old.conninfo, "--legacy-key-stdin", stdin=key) == 1
    assert terminal.err.startswith("gateway: the legacy key is not base64 of 32 bytes")
    assert not key or key not in terminal.err


async def test_one_broken_secret_is_named_and_the_other_bots_come_along(
    terminal: Terminal, old: OldWorld, pool: Pool
) -> None:
    sound, broken = await old.add_bot(), await old.add_bot()
    spoilt = old.seal("other")[:-1] + b"\x00"
    if old.shape == "lark":
        await old.rows("update lark_installation set app_secret_encrypted = %s where id = %s", spoilt, broken.id)
    else:
        config = msgspec.json.encode({"app_secret_encrypted": base64.b64encode(spoilt).decode()}).decode()
        await old.rows("update channel_installation set config = config || %s::jsonb where id = %s", config, broken.id)
    report = await move(terminal, old, code=1)
    assert report["conflicts"] == [
        {
            "table": "channel_installation",
            "id": str(broken.id),
            "reason": "its secrets cannot be moved: the legacy key does not open it",
        }
    ]
    assert await rows(pool, "select id from channel_installation") == [(sound.id,)]
    # What hangs on it stays behind with it, and comes along once it is mended.
    assert await rows(pool, "select distinct installation_id from channel_user_binding") == [(sound.id,)]
    assert counts(report, "new")["chat_session"] == 2


async def test_app_that_lives_here_under_another_agent_is_named_and_left_alone(
    terminal: Terminal, old: OldWorld, pool: Pool
) -> None:
    taken, free = await old.add_bot(), await old.add_bot()
    place = await add_place(pool, "here")
    holder = await add_installation(pool, place, taken.app_id)
    report = await move(terminal, old, code=1)
    (conflict,) = report["conflicts"]
    assert (conflict["table"], conflict["id"]) == ("channel_installation", str(taken.id))
    assert conflict["reason"] == (
        f"app {taken.app_id} lives here already, as installation {holder} of agent {place.agent_id}"
    )
    assert {id_ for (id_,) in await rows(pool, "select id from channel_installation")} == {holder, free.id}
    assert (await move(terminal, old, code=1))["conflicts"] == [conflict]
    # A dead row does not hold an app back for ever.
    await rows(pool, "update channel_installation set status = 'revoked' where id = %s", holder)
    assert counts(await move(terminal, old), "new") == {
        name: count for name, count in TABLES.items() if name.startswith(("channel_", "chat_"))
    }
    assert {id_ for (id_,) in await rows(pool, "select id from channel_installation")} == {taken.id, free.id}


async def test_agent_that_has_another_bot_here_keeps_it(terminal: Terminal, old: OldWorld, pool: Pool) -> None:
    bot = await old.add_bot()
    await move(terminal, old)
    await rows(pool, 'update channel_installation set id = %s, config = \'{"app_id": "cli_new"}\'', uuid4())
    report = await move(terminal, old, code=1)
    assert f"its agent {bot.agent_id} has another bot here" in report["conflicts"][0]["reason"]


async def test_person_who_is_here_already_is_the_same_person(terminal: Terminal, old: OldWorld, pool: Pool) -> None:
    ada = await add_person(pool, "ada@example.com")
    twin = await old.add_person("ADA@example.com")
    await old.add_bot()
    report = await move(terminal, old)
    assert report["tables"]["app_user"] == {"new": 0, "unchanged": 2, "skipped": 0, "reasons": {}}
    assert await rows(pool, "select id, password_hash from app_user") == [(ada, None)]
    assert await rows(pool, "select user_id from member") == [(ada,)]
    assert await rows(pool, "select user_id from channel_user_binding") == [(ada,)]
    assert await rows(pool, "select owner_id from agent") == [(ada,)]
    assert await rows(pool, "select distinct creator_id from chat_session") == [(ada,)]
    assert twin != ada


async def test_names_that_are_taken_here_get_the_beginning_of_the_id(
    terminal: Terminal, old: OldWorld, pool: Pool
) -> None:
    await add_place(pool, "acme")
    bot = await old.add_bot()
    twins = [await old.add_agent("twin"), await old.add_agent("twin")]
    await move(terminal, old)
    assert await rows(pool, "select slug from workspace where id = %s", old.workspace_id) == [
        (f"acme-{str(old.workspace_id)[:8]}",)
    ]
    names = dict(await rows(pool, "select id, name from agent where workspace_id = %s", old.workspace_id))
    assert names[bot.agent_id] == "agent 1"
    assert sorted(names[twin] for twin in twins)[0] == "twin"
    assert len(set(names.values())) == 3
    await add_agent(pool, old.workspace_id, "later")
    later = await old.add_agent("later")
    await move(terminal, old)
    assert await rows(pool, "select name from agent where id = %s", later) == [(f"later ({str(later)[:8]})",)]


async def test_binding_to_somebody_else_here_is_a_conflict_and_to_the_same_is_none(
    terminal: Terminal, old: OldWorld, pool: Pool
) -> None:
    await old.add_bot()
    await move(terminal, old)
    await rows(pool, "update channel_user_binding set id = %s", uuid4())
    assert counts(await move(terminal, old), "unchanged")["channel_user_binding"] == 1
    eve = await add_person(pool, "eve@example.com")
    await rows(pool, "update channel_user_binding set user_id = %s", eve)
    report = await move(terminal, old, code=1)
    assert [each["table"] for each in report["conflicts"]] == ["channel_user_binding"]


@pytest.mark.parametrize("shape", ["channel"])
async def test_orphans_and_other_platforms_stay_behind_with_a_reason(
    terminal: Terminal, old: OldWorld, pool: Pool
) -> None:
    bot = await old.add_bot()
    orphan = OldBot(uuid4(), uuid4(), "cli_orphan", "fake-orphan")
    await old.add_installation(orphan)
    slack = {"id": uuid4(), "workspace_id": old.workspace_id, "agent_id": bot.agent_id, "channel_type": "slack"}
    await old.add("channel_installation", **slack, installer_user_id=old.owner_id, config={"token_encrypted": "xx"})
    gone = await old.add_person("gone@example.com", member=False)
    for user_id, account in ((gone, "ou_gone"), (uuid4(), "ou_nobody")):
        await old.add(
            "channel_user_binding",
            workspace_id=old.workspace_id,
            multica_user_id=user_id,
            installation_id=bot.id,
            channel_type="feishu",
            channel_user_id=account,
        )
    for channel_type in ("feishu", "slack"):
        await old.add(
            "channel_inbound_audit",
            channel_type=channel_type,
            event_type="e",
            drop_reason="invalid_event",
        )
    await old.add("channel_inbound_audit", channel_type="feishu", event_type="e", drop_reason="something_later")
    await old.rows("delete from chat_session where id = %s", bot.group_id)
    report = await move(terminal, old)
    tables = report["tables"]
    assert tables["channel_installation"]["reasons"] == {
        "of channel type slack, which is not served here": 1,
        "of an agent or a workspace that is gone": 1,
    }
    assert tables["channel_user_binding"]["reasons"] == {
        "of somebody who is not a member of the bot's workspace": 2,
    }
    assert tables["channel_chat_session_binding"]["reasons"] == {"of a conversation that is not here": 1}
    assert tables["channel_inbound_audit"] == {
        "new": 2,
        "unchanged": 0,
        "skipped": 2,
        "reasons": {"of channel type slack, which is not served here": 1, "its reason has no word here": 1},
    }
    assert await rows(pool, "select count(*) from channel_inbound_audit where installation_id is null") == [(1,)]


@pytest.mark.parametrize("shape", ["lark"])
async def test_oldest_schema_lacks_tables_and_columns_and_is_imported_all_the_same(
    terminal: Terminal, old: OldWorld, pool: Pool
) -> None:
    bot = await old.add_bot()
    for change in (
        "alter table lark_installation drop column region, drop column bot_union_id",
        "alter table lark_user_binding drop column union_id",
        "alter table lark_installation drop column ws_lease_token, drop column ws_lease_expires_at",
        "alter table lark_chat_session_binding drop column last_lark_message_id, drop column last_lark_thread_id",
        "alter table lark_inbound_message_dedup drop column claim_token",
        "alter table lark_inbound_audit drop column id",
        "drop table lark_binding_token",
        "alter table workspace drop column issue_prefix, drop column issue_counter",
        "alter table agent drop column runtime_id, drop column archived_at",
        "drop table agent_runtime, chat_message",
    ):
        await old.rows(change)
    report = await move(terminal, old)
    assert counts(report, "new")["channel_inbound_audit"] == 1
    assert await rows(pool, "select config ->> 'region' from channel_installation") == [("feishu",)]
    assert await rows(pool, "select issue_prefix from workspace") == [("ACM",)]
    assert counts(await move(terminal, old), "new") == {}
    assert await rows(pool, "select id from channel_installation") == [(bot.id,)]


@pytest.mark.parametrize("shape", ["lark"])
@pytest.mark.parametrize("moved", [False, True])
async def test_database_with_both_generations_is_read_where_its_bots_are(
    terminal: Terminal, old: OldWorld, pool: Pool, moved: bool
) -> None:
    bot = await old.add_bot()
    await old.rows(legacy_schema.CHANNEL)
    later = OldBot(uuid4(), bot.agent_id, "cli_later", "fake-later")
    if moved:
        old.shape = "channel"
        await old.add_installation(later)
    report = await move(terminal, old)
    assert report["source"] == ("channel" if moved else "lark")
    assert await rows(pool, "select id from channel_installation") == [(later.id if moved else bot.id,)]


@pytest.mark.parametrize("shape", ["lark"])
async def test_old_database_that_is_none_is_refused(
    terminal: Terminal, old: OldWorld, database: str, pool: Pool
) -> None:
    before = await dump(pool)
    for source, code, complaint in (
        (database, 1, "gateway: the old database: it has no table user; is --from the right one?"),
        ("postgresql://u:fake-pw@127.0.0.1:1/x?connect_timeout=2", 1, "gateway: the old database: "),
        ("postgresql://u:fake-pw@[", 78, "gateway: --from: not a connection URI"),
    ):
        assert await terminal.run("legacy", "import", "--from", source, "--legacy-key-stdin", stdin=old.key) == code
        assert terminal.err.startswith(complaint)
        assert terminal.err.count("\n") == 1
        assert "fake-pw" not in terminal.err
    await old.rows("drop table lark_installation cascade")
    assert await terminal.run("legacy", "import", "--from", old.conninfo, "--legacy-key-stdin", stdin=old.key) == 1
    assert "no table lark_installation or channel_installation" in terminal.err
    assert await dump(pool) == before


@pytest.mark.parametrize("arguments", [["--legacy-key-stdin"], ["--from", "postgresql://x"]])
async def test_import_with_wrong_usage_exits_with_2(terminal: Terminal, arguments: list[str]) -> None:
    assert await terminal.run("legacy", "import", *arguments) == 2


async def test_import_that_is_killed_leaves_nothing_and_can_be_run_again(
    terminal: Terminal, old: OldWorld, pool: Pool, database: str, tmp_path: Path
) -> None:
    await old.add_bot()
    before = await dump(pool)
    env = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | {
        "GATEWAY_DATABASE_URL": database,
        "GATEWAY_SECRET_KEY": KEY,
        "GATEWAY_STATE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "gateway", "legacy", "import", "--from", old.conninfo, "--legacy-key-stdin"]
    waiting = "select count(*) from pg_locks where relation = 'channel_binding_token'::regclass and not granted"
    async with await TrioConnection.connect(database) as watching, pool.transaction() as conn:
        # The last table of all: everything else has been written when it waits here.
        await conn.execute("lock table channel_binding_token in exclusive mode")
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(trio.run_process, command, stdin=old.key.encode(), env=env, check=False)
            )
            with trio.fail_after(30):
                while await (await watching.execute(waiting)).fetchone() != (1,):
                    await trio.sleep(0.05)
            process.send_signal(signal.SIGKILL)
    assert await dump(pool) == before
    assert counts(await move(terminal, old), "new") == TABLES


async def test_link_that_was_on_its_way_can_still_be_redeemed(terminal: Terminal, old: OldWorld, pool: Pool) -> None:
    bot = await old.add_bot()
    minted = token_hash("fake-link-token")
    await old.add(
        old.table("binding_token"),
        token_hash=minted,
        workspace_id=old.workspace_id,
        installation_id=bot.id,
        expires_at="2026-01-02T03:19:05+00:00",
        created_at="2026-01-02T03:04:05+00:00",
        **old.names(user_id="ou_late"),
    )
    await move(terminal, old)
    found = await rows(
        pool, "select installation_id, consumed_at from channel_binding_token where token_hash = %s", minted
    )
    assert found == [(bot.id, None)]
