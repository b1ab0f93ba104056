"""Two daemons on one database: one live connection, whatever happens to its owner."""

from __future__ import annotations

import trio

from support.partition import open_partition
from support.processes import GatewayProcess
from support.world import LEASE_TTL_SECONDS, LarkBot, World


async def owner_of(
    world: World, first: GatewayProcess, second: GatewayProcess
) -> tuple[GatewayProcess, GatewayProcess]:
    """The daemon that holds the link, and the other one."""

    def linked(daemon: GatewayProcess) -> bool:
        return "link_established" in daemon.log

    with trio.fail_after(10):
        while linked(first) == linked(second):
            await trio.sleep(0.02)
    return (first, second) if linked(first) else (second, first)


async def seconds_until_live(bot: LarkBot, *, after: float) -> float:
    with trio.fail_after(20):
        while not [one for one in await bot.connected() if one.opened_at / 1000 > after]:
            await trio.sleep(0.01)
    (connection,) = await bot.connected()
    return connection.opened_at / 1000 - after


async def wall_clock(world: World) -> float:
    return float(await world.value("select extract(epoch from clock_timestamp())"))


async def test_owner_killed_is_followed_within_its_lease_and_a_second(world: World) -> None:
    bot = await world.add_bot()
    async with world.daemon() as first, world.daemon() as second:
        await bot.connected()
        owner, _ = await owner_of(world, first, second)
        killed_at = await wall_clock(world)
        await owner.kill()
        assert await seconds_until_live(bot, after=killed_at) <= LEASE_TTL_SECONDS + 1
    assert bot.most_live == 1


async def test_owner_terminated_hands_over_within_half_a_second(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon() as first, world.daemon() as second:
        await bot.connected()
        owner, _ = await owner_of(world, first, second)
        asked_at = await wall_clock(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.terminate)
            assert await seconds_until_live(bot, after=asked_at) <= 0.5
        assert owner.returncode == 0
        said = world.sim.say(ada, bot.app, "is anybody there?")
        with trio.fail_after(10):
            await said.event.settled()
    assert bot.most_live == 1
    assert await world.contents() == ["is anybody there?"]


async def test_owner_whose_writes_vanish_closes_before_its_lease_can_expire(world: World) -> None:
    bot = await world.add_bot()
    async with open_partition(world.conninfo) as partition:
        through = {"GATEWAY_DATABASE_URL": partition.conninfo}
        async with world.daemon(environment=through) as isolated:
            (old,) = await bot.connected()
            async with world.daemon() as other:
                await owner_of(world, isolated, other)
                partition.vanishing = True
                with trio.fail_after(3 * LEASE_TTL_SECONDS):
                    await old.ended.wait()
                expires = await world.value(
                    "select extract(epoch from ws_lease_expires_at - clock_timestamp()) from channel_installation"
                )
                assert expires > 0, "the lease had expired for others before the old owner's socket was closed"
                (new,) = await bot.connected()
                assert new.opened_at >= old.closed_at
    assert bot.most_live == 1


async def test_revoked_bot_is_disconnected_and_one_added_is_connected_at_once(world: World) -> None:
    bot = await world.add_bot()
    async with world.daemon():
        (connection,) = await bot.connected()
        await world.rows("update channel_installation set status = 'revoked'")
        with trio.fail_after(2):
            await connection.ended.wait()
        await bot.install()
        await bot.connected(seconds=2)
        state = "select state = 'live' from channel_connection"
        await world.until(state, seconds=3)
    assert bot.most_live == 1
