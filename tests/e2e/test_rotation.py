"""Credentials change under load; sealing keys change unnoticed."""

from __future__ import annotations

import json

import trio

from gateway.keyring import KeyRing, generate_key
from support.world import World

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


async def test_sealing_key_rotated_on_a_live_bot_closes_no_socket(world: World) -> None:
    old_key, new_key = world.key, generate_key()
    bot = await world.add_bot()
    async with world.daemon(environment={"GATEWAY_SECRET_KEY": f"{new_key},{old_key}"}):
        (connection,) = await bot.connected()
        config = await world.value("select config from channel_installation")
        secret = KeyRing.parse(old_key).open_text(config["app_secret_encrypted"], owner=bot.id)
        config["app_secret_encrypted"] = KeyRing.parse(new_key).seal_text(secret, owner=bot.id)
        await world.rows("update channel_installation set config = %s::jsonb", json.dumps(config))
        # Another row's change proves that a sweep has read this one since.
        other = await world.add_bot("Other")
        await other.connected()
        assert connection.live
        assert await world.value("select lease_epoch from channel_installation where id = %s", bot.id) == 1
    assert bot.most_live == 1
