from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import trio

from gateway.config import load_settings
from gateway.daemon.database import open_keyring
from gateway.keyring import KeyRing, generate_key
from gateway.postgres.pool import Pool
from gateway.postgres.secret_store import secret_tables
from gateway.work.secrets import rotate_secrets
from support.lark_directory import Place, add_agent, add_installation, add_place
from support.terminal import Terminal, open_terminal

OLD, NEW, LOST = generate_key(), generate_key(), generate_key()


@pytest.fixture
async def place(pool: Pool) -> Place:
    return await add_place(pool)


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database: str, tmp_path: Path
) -> Iterator[Terminal]:
    with open_terminal(
        monkeypatch, capsys, database=database, secret_key=f"{NEW},{OLD}", state_dir=tmp_path
    ) as terminal:
        yield terminal


async def add_bot(pool: Pool, place: Place, number: int, key: str, **more: Any) -> UUID:
    """An installation of its own agent whose secrets are sealed under `key`."""
    agent_id = await add_agent(pool, place.workspace_id, f"agent {number}")
    bot = await add_installation(
        pool, Place(place.workspace_id, agent_id, place.owner_id, place.owner_email), f"cli_{number:016}"
    )
    names = ("app_secret", "encrypt_key")
    sealed = {f"{name}_encrypted": seal(key, bot, f"fake-{name}-{number}") for name in names}
    await execute(
        pool, "update channel_installation set config = config || %s::jsonb where id = %s", sealed | more, bot
    )
    return bot


def seal(key: str, bot: UUID, plaintext: str) -> str:
    return KeyRing.parse(key).seal_text(plaintext, owner=bot)


def opened(config: dict[str, Any], bot: UUID, key: str = NEW) -> dict[str, str]:
    ring = KeyRing.parse(key)
    return {name: ring.open_text(value, owner=bot) for name, value in config.items() if name.endswith("_encrypted")}


async def execute(pool: Pool, statement: str, values: dict[str, Any], bot: UUID) -> None:
    async with pool.connection() as conn:
        await conn.execute(statement.encode(), (msgspec.json.encode(values).decode(), bot))


async def configs(pool: Pool) -> dict[UUID, dict[str, Any]]:
    async with pool.connection() as conn:
        return dict(await (await conn.execute("select id, config from channel_installation")).fetchall())


async def test_rotate_moves_every_secret_and_nothing_else(terminal: Terminal, pool: Pool, place: Place) -> None:
    bots = [await add_bot(pool, place, number, OLD, bot_union_id="on_1", region="lark") for number in range(3)]
    new = await add_bot(pool, place, 9, NEW)
    before = await configs(pool)
    assert await terminal.json("secrets", "rotate") == {
        "total": 8,
        "resealed": 6,
        "current": 2,
        "unreadable": 0,
        "changing": 0,
        "troubles": [],
    }
    after = await configs(pool)
    assert after[new] == before[new]
    for bot in bots:
        assert opened(after[bot], bot) == opened(before[bot], bot, OLD)
        changed = {name for name, value in after[bot].items() if value != before[bot][name]}
        assert changed == {"app_secret_encrypted", "encrypt_key_encrypted"}
    assert (await terminal.json("secrets", "rotate"))["current"] == 8
    assert await configs(pool) == after


async def test_rotate_reaches_the_secrets_of_revoked_bots_and_of_wrapped_base64(
    terminal: Terminal, pool: Pool, place: Place
) -> None:
    bot = await add_bot(pool, place, 1, OLD)
    sealed = (await configs(pool))[bot]["app_secret_encrypted"]
    await execute(
        pool,
        "update channel_installation set status = 'revoked', config = config || %s::jsonb where id = %s",
        {"app_secret_encrypted": "\r\n".join(sealed[at : at + 16] for at in range(0, len(sealed), 16))},
        bot,
    )
    assert (await terminal.json("secrets", "rotate"))["resealed"] == 2
    assert opened((await configs(pool))[bot], bot)["app_secret_encrypted"] == "fake-app_secret-1"


@pytest.mark.parametrize("rest", [{}, {"verification_token_encrypted": None}, {"verification_token_encrypted": 7}])
async def test_rotate_names_an_unreadable_secret_and_seals_the_others(
    terminal: Terminal, pool: Pool, place: Place, rest: dict[str, Any]
) -> None:
    lost = await add_bot(pool, place, 1, LOST, **rest)
    old = await add_bot(pool, place, 2, OLD)
    before = await configs(pool)
    assert await terminal.run("secrets", "rotate") == 1
    assert f"FAIL  installation {lost}: app_secret_encrypted: secret_key holds no key" in terminal.err
    assert str(old) not in terminal.out + terminal.err
    assert "2 sealed under the newest key, 0 were already" in terminal.out
    after = await configs(pool)
    assert after[lost] == before[lost]
    assert opened(after[old], old)["app_secret_encrypted"] == "fake-app_secret-2"
    done = await terminal.json("secrets", "rotate", code=1)
    assert (done["current"], done["unreadable"]) == (2, 2 + len(rest))
    assert {(each["kind"], each["owner_id"]) for each in done["troubles"]} == {("installation", str(lost))}


async def test_rotate_survives_a_config_that_is_no_object(terminal: Terminal, pool: Pool, place: Place) -> None:
    bot = await add_bot(pool, place, 1, OLD)
    odd = await add_bot(pool, place, 2, OLD)
    async with pool.connection() as conn:
        await conn.execute("update channel_installation set config = '[1]' where id = %s", (odd,))
    assert (await terminal.json("secrets", "rotate"))["resealed"] == 2
    assert opened((await configs(pool))[bot], bot)


async def test_replacement_of_a_value_that_changed_changes_nothing(pool: Pool, place: Place) -> None:
    bot = await add_bot(pool, place, 1, OLD)
    table = secret_tables(pool)[0]
    read = list(await table.page(None, 10))
    fresh = {"app_secret_encrypted": seal(OLD, bot, "fake-fresh"), "bot_union_id": "on_late"}
    await execute(pool, "update channel_installation set config = config || %s::jsonb where id = %s", fresh, bot)
    outcomes = {each.name: await table.replace(each, seal(NEW, bot, "fake-stale")) for each in read}
    assert outcomes == {"app_secret_encrypted": False, "encrypt_key_encrypted": True}
    after = (await configs(pool))[bot]
    assert (after["app_secret_encrypted"], after["bot_union_id"]) == tuple(fresh.values())


async def test_two_rotations_at_once_leave_every_secret_readable(pool: Pool, place: Place) -> None:
    bots = [await add_bot(pool, place, number, OLD) for number in range(20)]
    ring = KeyRing.parse(f"{NEW},{OLD}")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(rotate_secrets, secret_tables(pool), ring, lambda _what, _done, _total: None)
    after = await configs(pool)
    for number, bot in enumerate(bots):
        assert opened(after[bot], bot)["app_secret_encrypted"] == f"fake-app_secret-{number}"


async def test_rotate_without_a_key_is_a_matter_of_configuration(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_SECRET_KEY")
    assert await terminal.run("secrets", "rotate") == 78
    assert terminal.err.startswith("gateway: secret_key: is unset")


def test_key_file_of_the_embedded_database_may_hold_a_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read like the setting: the new key is put in front of the one that was made at the first start."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    settings = load_settings(None, {"state_dir": str(tmp_path)})
    first = open_keyring(settings)
    assert first is not None
    path = tmp_path / "secret.key"
    path.write_text(f"{NEW},{path.read_text()}")
    ring = open_keyring(settings)
    assert ring is not None
    owner = UUID(int=1)
    moved = ring.reseal_text(first.seal_text("fake-secret", owner=owner), owner=owner)
    assert moved is not None
    assert KeyRing.parse(NEW).open_text(moved, owner=owner) == "fake-secret"


async def test_secrets_of_webhooks_are_on_a_shelf_of_their_own(pool: Pool, place: Place) -> None:
    autopilot_id, trigger_id, secret_id = uuid4(), uuid4(), uuid4()
    async with pool.connection() as conn:
        await conn.execute(
            "insert into autopilot (id, workspace_id, title, assignee_id) values (%s, %s, 'T', %s)",
            (autopilot_id, place.workspace_id, place.agent_id),
        )
        await conn.execute(
            "insert into autopilot_trigger (id, workspace_id, autopilot_id, kind) values (%s, %s, %s, 'webhook')",
            (trigger_id, place.workspace_id, autopilot_id),
        )
        await conn.execute(
            "insert into webhook_signing_secret (id, workspace_id, trigger_id, secret_encrypted, last_four)"
            " values (%s, %s, %s, %s, 'et-1')",
            (secret_id, place.workspace_id, trigger_id, "not sealed at all"),
        )
    table = secret_tables(pool)[-1]
    (found,) = await table.page(None, 10)
    assert (await table.count(), found.owner_id, found.sealed) == (1, secret_id, "not sealed at all")
    assert await table.page(found, 10) == []
    assert await table.replace(found, "sealed anew")
    assert not await table.replace(found, "sealed again")
