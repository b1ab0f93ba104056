"""Credentials change under load; sealing keys change unnoticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import trio

from gateway.keyring import KeyRing, generate_key
from support.world import LarkBot, World

PEOPLE = 20
EVENTS = 300
EVENTS_PER_SECOND = 100


async def test_app_secret_rotated_under_load_loses_and_doubles_nothing(world: World) -> None:
    bot = await world.add_bot()
    people = [await bot.bind(f"Person {number}") for number in range(PEOPLE)]
    world.sim.delivery.redelivery_scale = 0.02
    events = []
    async with world.daemon() as daemon:
        (first,) = await bot.connected()
        async with trio.open_nursery() as nursery:
            for number in range(EVENTS):
                events.append(world.sim.say(people[number % PEOPLE], bot.app, f"number {number}").event)
                if number == EVENTS // 3:
                    world.sim.rotate_secret(bot.app)
                    nursery.start_soon(bot.install)
                await trio.sleep(1 / EVENTS_PER_SECOND)
        with trio.fail_after(30):
            await first.ended.wait()
            for event in events:
                await event.settled()
        await bot.connected()
        assert await daemon.terminate() == 0
    assert {event.state for event in events} == {"delivered"}
    assert sorted(await world.contents()) == sorted(f"number {number}" for number in range(EVENTS))
    assert bot.most_live == 1
    released, epoch = (await world.rows("select ws_lease_token is null, lease_epoch from channel_installation"))[0]
    assert released
    assert epoch > 1


async def test_late_release_of_an_old_token_changes_nothing(world: World) -> None:
    bot = await world.add_bot()
    async with world.daemon():
        await bot.connected()
        old, first = (await world.rows("select ws_lease_token, lease_epoch from channel_installation"))[0]
        world.sim.rotate_secret(bot.app)
        await bot.install()
        await world.until("select ws_lease_token <> %s from channel_installation", old)
        (connection,) = await bot.connected()
        query = "update channel_installation set ws_lease_token = null where ws_lease_token = %s returning id"
        assert await world.rows(query, old) == []
        assert connection.live
        assert await world.value("select lease_epoch from channel_installation") > first
    assert bot.most_live == 1


async def test_sealing_key_rotated_on_live_bots_closes_no_socket(world: World) -> None:
    old_key, new_key = world.key, generate_key()
    bots = [await world.add_bot("One"), await world.add_bot("Two")]
    before = await world.rows("select config from channel_installation order by id")
    ring = {"GATEWAY_SECRET_KEY": f"{new_key},{old_key}"}
    async with world.daemon(environment=ring):
        connections = [connection for bot in bots for connection in await bot.connected()]
        done = await run_command(world, "secrets", "rotate", "--json", **ring)
        assert (done.returncode, json.loads(done.stdout)["resealed"]) == (0, 2)
        assert await world.rows("select config from channel_installation order by id") != before
        # Another row's change proves that a sweep has read these since.
        other = await world.add_bot("Other")
        await other.connected()
        assert all(connection.live for connection in connections)
        epochs = await world.rows(
            "select lease_epoch from channel_installation where id = any(%s)", [b.id for b in bots]
        )
        assert epochs == [(1,), (1,)]
    assert [bot.most_live for bot in bots] == [1, 1]
    # Nothing needs the old key any more.
    world.key = new_key
    await other.install()
    async with world.daemon():
        for bot in [*bots, other]:
            await bot.connected()


async def test_unreadable_secret_is_a_state_of_its_bot_alone(world: World) -> None:
    lost, bot = await world.add_bot("Lost"), await world.add_bot("Sound")
    other_key, new_key = {"GATEWAY_SECRET_KEY": generate_key()}, generate_key()
    await reseal(world, lost, world.key, new_key)
    async with world.daemon():
        await bot.connected()
        await world.until(
            "select count(*) = 1 from channel_connection where installation_id = %s and state = 'unreadable_secret'",
            lost.id,
        )
        listed = json.loads((await run_command(world, "lark", "list", "--json")).stdout)
        states = {each["id"]: each["connection"]["state"] for each in listed}
        assert states == {str(lost.id): "unreadable_secret", str(bot.id): "live"}
        detail = next(each["connection"]["detail"] for each in listed if each["id"] == str(lost.id))
        assert detail.startswith("secret_key holds no key ")
        doctor = await run_command(world, "doctor")
        assert doctor.returncode == 1
        assert f"FAIL  secrets: 1 of 2 stored do not open: installation {lost.id}: app_secret_encrypted".encode() in (
            doctor.stdout
        )
        assert f"FAIL  bot {lost.app.app_id}: its secret does not open".encode() in doctor.stdout
        assert f"ok    bot {bot.app.app_id}: live".encode() in doctor.stdout
        rotated = await run_command(world, "secrets", "rotate", "--json")
        assert (rotated.returncode, json.loads(rotated.stdout)["unreadable"]) == (1, 1)
        # With a key that opens nothing at all every command still answers.
        assert (await run_command(world, "lark", "list", "--json", **other_key)).returncode == 0
        # Credentials given anew bring it back, without a restart.
        await lost.install()
        await lost.connected()


async def reseal(world: World, bot: LarkBot, old_key: str, new_key: str) -> None:
    config = await world.value("select config from channel_installation where id = %s", bot.id)
    secret = KeyRing.parse(old_key).open_text(config["app_secret_encrypted"], owner=bot.id)
    config["app_secret_encrypted"] = KeyRing.parse(new_key).seal_text(secret, owner=bot.id)
    await world.rows("update channel_installation set config = %s::jsonb where id = %s", json.dumps(config), bot.id)


async def run_command(world: World, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`gateway …` on the world's database, as a process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    settings = {
        "GATEWAY_DATABASE_URL": world.conninfo,
        "GATEWAY_SECRET_KEY": world.key,
        "GATEWAY_STATE_DIR": str(world.logs),
        **world.environment,
        **environment,
    }
    with trio.fail_after(60):
        return await trio.run_process(
            [sys.executable, "-m", "gateway", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=inherited | settings,
        )
