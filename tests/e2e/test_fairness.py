"""One chat, one stranger or one person takes nothing from the others: attacks on a real daemon."""

from __future__ import annotations

import httpx2
import trio

from gateway.postgres.driver import TrioConnection
from support.world import World

OTHERS_ACK_MS_MAX = 3_000
PASSWORD = "not-a-real-password-1"


async def test_stuck_and_flooded_chat_delays_no_other_chat_and_shows(world: World) -> None:
    bot = await world.add_bot()
    ada, eve = await bot.bind("Ada"), await bot.bind("Eve")
    async with world.daemon(environment={"GATEWAY_LIMITS__EVENTS_IN_FLIGHT_MAX": "64"}):
        await bot.connected()
        first = world.sim.say(ada, bot.app, "first")
        with trio.fail_after(15):
            await first.event.settled()
        async with await TrioConnection.connect(world.conninfo) as conn, conn.transaction():
            await conn.execute("select 1 from chat_session for update")
            stuck = [world.sim.say(ada, bot.app, f"stuck {number}") for number in range(100)]
            for number in range(3):
                said = world.sim.say(eve, bot.app, f"message {number}")
                with trio.fail_after(15):
                    await said.event.settled()
                assert [push.ack_code for push in said.event.pushes] == [200]
                assert said.event.pushes[0].latency_ms < OTHERS_ACK_MS_MAX
            refused = [said for said in stuck if said.event.pushes and said.event.pushes[0].ack_code == 500]
            assert len(refused) >= len(stuck) - 64
            await world.until("select degraded_until > now() from channel_connection")
        assert "degraded" in await world.command("lark", "list")
        taken = [f"stuck {number}" for number, said in enumerate(stuck) if said not in refused]
        await world.until("select count(*) = %s from chat_message where content like 'stuck%%'", len(taken))
        assert [text for text in await world.contents() if text.startswith("stuck")] == taken


async def test_stranger_who_fails_to_sign_in_locks_out_nobody_else(world: World) -> None:
    await world.command("admin", "user", "password", "ada@example.invalid", "--password-stdin", stdin=PASSWORD)

    async with world.daemon(environment={"GATEWAY_HTTP__TRUSTED_PROXIES": "127.0.0.0/8"}) as daemon:
        async with httpx2.AsyncClient(base_url=daemon.url, trust_env=False) as http:

            async def sign_in(forwarded: str, password: str) -> int:
                body = {"email": "ada@example.invalid", "password": password}
                answer = await http.post("/api/auth/login", json=body, headers={"X-Forwarded-For": forwarded})
                return answer.status_code

            # Whatever the stranger claims on the left, the proxy wrote the address on the right.
            tries = [await sign_in(f"198.51.100.{number}, 192.0.2.9", "wrong") for number in range(12)]
            assert tries == [401] * 10 + [429] * 2
            assert await sign_in("192.0.2.9", PASSWORD) == 429
            assert await sign_in("192.0.2.9, 192.0.2.10", PASSWORD) == 200


async def test_people_are_told_of_what_is_not_understood_and_have_a_share_of_streams(world: World) -> None:
    _, token = await world.directory.add_user_token(world.owner)
    slug = world.workspace.slug
    async with world.daemon() as daemon:
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(base_url=daemon.url, trust_env=False, headers=headers) as http:
            answer = await http.post(f"/api/workspaces/{slug}/agents", json={"name": "A", "color": "red"})
            assert (answer.status_code, answer.json()["field"]) == (400, "color")
            answer = await http.get(f"/api/workspaces/{slug}/chats", params={"limt": "5"})
            assert (answer.status_code, answer.json()["field"]) == (400, "limt")
            answer = await http.get(f"/api/workspaces/{slug}/chats", params={"limit": "-1"})
            assert (answer.status_code, answer.json()["field"]) == (400, "limit")
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    await nursery.start(_stream, http, slug)
                answer = await http.get(f"/api/workspaces/{slug}/events")
                assert (answer.status_code, "Retry-After" in answer.headers) == (429, True)
                nursery.cancel_scope.cancel()


async def _stream(http: httpx2.AsyncClient, slug: str, *, task_status: trio.TaskStatus[None]) -> None:
    async with http.stream("GET", f"/api/workspaces/{slug}/events", timeout=30) as answer:
        assert answer.status_code == 200
        task_status.started()
        async for _ in answer.aiter_lines():
            pass
