"""What older versions did not store is learnt by a daemon that starts, and no link is closed for it."""

from __future__ import annotations

from support.world import World


async def test_start_learns_the_union_id_of_a_bot_and_leaves_its_link_alone(world: World) -> None:
    bot = await world.add_bot()
    await world.rows("update channel_installation set config = config - 'bot_union_id'")
    async with world.daemon():
        (before,) = await bot.connected()
        await world.until("select config ->> 'bot_union_id' <> '' from channel_installation")
        ada = await bot.bind("Ada")
        world.sim.say(ada, bot.app, "are you there?")
        await world.until("select count(*) = 1 from chat_message where role = 'user'")
        (after,) = await bot.connected()
        assert after is before
        assert await world.value("select config ->> 'region' from channel_installation") == "feishu"
