"""A stranger is asked to bind and binds, and nothing that must not be kept is kept: on real processes."""

from __future__ import annotations

import re

import httpx2

from gateway.simulator.platform import App, Person, open_id
from support.processes import free_address
from support.world import World

MARKER = "zanzibar-marker"
PASSWORD = "not-a-real-password"


async def test_stranger_binds_and_neither_words_nor_link_are_kept(world: World) -> None:
    bot = await world.add_bot()
    eve = world.sim.create_person("Eve")
    http, metrics = free_address(), free_address()
    addresses = {
        "GATEWAY_HTTP__BIND": http,
        "GATEWAY_HTTP__PUBLIC_URL": f"http://{http}",
        "GATEWAY_METRICS__BIND": metrics,
    }
    await world.directory.add_member(
        world.workspace, await world.directory.add_user("eve@example.invalid", "Eve", PASSWORD)
    )
    async with world.daemon(environment=addresses) as daemon:
        await bot.connected()
        said = world.sim.say(eve, bot.app, f"{MARKER} let me in")
        (question,) = await world.answers(said.message.chat_id)
        token = re.search(r"/lark/bind\?token=([\w-]{43})", question.content)
        assert token
        async with httpx2.AsyncClient(base_url=f"http://{http}", trust_env=False) as browser:
            assert token[1] in (await browser.get(token[0])).text
            browser.headers["Origin"] = f"http://{http}"
            body = {"email": "eve@example.invalid", "password": PASSWORD}
            assert (await browser.post("/api/auth/login", json=body)).status_code == 200
            page = await browser.get(token[0])
            asked = (await browser.post("/api/lark/binding/preview", json={"token": token[1]})).json()
            for name in ("Eve", bot.app.name, "eve@example.invalid"):
                assert name in page.text
            assert (asked["person"]["name"], asked["bot"]["name"]) == ("Eve", bot.app.name)
            assert (asked["account"]["email"], asked["workspace"]["slug"]) == ("eve@example.invalid", "acme")
            assert await world.rows("select 1 from channel_user_binding") == []  # looked at twice, and not bound
            bound = await browser.post("/api/lark/binding/redeem", json={"token": token[1]})
            assert (bound.status_code, bound.json()["lark_open_id"]) == (200, account(bot.app, eve))
            counted = (await browser.get(f"http://{metrics}/metrics")).text
        world.sim.say(eve, bot.app, "it is me")
        await world.until("select count(*) = 1 from agent_task")
        kept = await world.everything_stored() + counted + daemon.log
    assert "it is me" in kept
    assert not [secret for secret in (MARKER, token[1], PASSWORD, "gws_") if secret in kept]


def account(app: App, person: Person) -> str:
    return open_id(app.app_id, person.union_id)
