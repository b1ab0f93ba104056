"""Which bot a posted event is for, when the row does not say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import httpx2
import trio

from gateway.lark.api.client import BotIdentity
from gateway.lark.api.clients import LarkClients
from gateway.lark.chat.push import IDENTIFY_AGAIN_SECONDS, IDENTIFY_SECONDS, Bots, _Turns
from support.lark_rest import BOT_PATH, Call, FakePlatform, Reply
from support.simulated import simulated

ID = UUID(int=1)
OPENED = {"app_id": "cli_a", "app_secret": "fake-secret"}
NOBODY = BotIdentity("")


@asynccontextmanager
async def bots_on(platform: FakePlatform) -> AsyncIterator[Bots]:
    async def answer(request: httpx2.Request) -> httpx2.Response:
        call = Call(request.method, request.url.path, "", dict(request.headers), await request.aread())
        reply = await platform.answer(call)
        return httpx2.Response(reply.status, headers=reply.headers, stream=httpx2.ByteStream(reply.body))

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), timeout=None) as http:
        yield Bots(LarkClients(http, open_base_override="http://platform.invalid"))


@simulated
async def test_stored_identity_is_not_asked_for() -> None:
    platform = FakePlatform()
    async with bots_on(platform) as bots:
        stored = OPENED | {"bot_open_id": "ou_stored", "bot_union_id": "on_stored"}
        assert await bots.learn(ID, stored) == BotIdentity("ou_stored", "on_stored")
    assert platform.calls == []


@simulated
async def test_identity_is_asked_for_once_however_many_events_wait_for_it() -> None:
    platform, learnt = FakePlatform(), []

    async def learn(bots: Bots) -> None:
        learnt.append((await bots.learn(ID, OPENED)).open_id)

    async with bots_on(platform) as bots:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(learn, bots)
        assert await bots.learn(UUID(int=2), OPENED | {"app_id": "cli_b"}) != NOBODY
    assert learnt == ["ou_bot"] * 5
    assert len(platform.asked(BOT_PATH)) == 2


@simulated
async def test_platform_that_hangs_costs_an_event_little_and_the_next_ones_nothing() -> None:
    platform = FakePlatform()

    async def hang(_call: Call) -> Reply:
        await trio.sleep_forever()
        raise AssertionError

    platform.script(BOT_PATH, hang)
    async with bots_on(platform) as bots:
        began = trio.current_time()
        assert await bots.learn(ID, OPENED) == NOBODY
        assert trio.current_time() == began + IDENTIFY_SECONDS
        assert await bots.learn(ID, OPENED) == NOBODY
        assert trio.current_time() == began + IDENTIFY_SECONDS
        await trio.sleep(IDENTIFY_AGAIN_SECONDS)
        assert (await bots.learn(ID, OPENED)).open_id == "ou_bot"


@simulated
async def test_row_without_a_secret_has_no_bot_and_raises_nothing() -> None:
    async with bots_on(FakePlatform()) as bots:
        assert await bots.learn(ID, {"app_id": "cli_a"}) == NOBODY


@simulated
async def test_turns_survive_a_waiter_that_gives_up() -> None:
    turns, order = _Turns(), []

    async def take(name: str, seconds: float) -> None:
        with trio.move_on_after(seconds):
            async with turns.take("chat"):
                order.append(name)
                await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        for name, seconds in (("first", 100.0), ("impatient", 5.0), ("third", 100.0)):
            nursery.start_soon(take, name, seconds)
            await trio.sleep(0.1)
    assert order == ["first", "third"]
    assert turns._lines == {}
