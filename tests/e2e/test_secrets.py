"""What opens doors is kept nowhere: a busy day with trouble in it, at debug level, then a search through everything."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import trio

from gateway.keyring import KeyRing
from gateway.lark.install.service import InstallationService, NewApp, identify_with
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.simulator.platform import SimPlatform
from support.processes import free_address
from support.world import LarkBot, World, open_runtime

PASSWORD = "not-a-real-password"
ENCRYPT_KEY = "fake-encrypt-key-marker"
VERIFICATION_TOKEN = "fake-verification-token-marker"


class Minted:
    """Everything the platform hands out that must not be seen again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.secrets: list[str] = []
        for name in ("grant_token", "grant_ticket"):
            monkeypatch.setattr(SimPlatform, name, self._noting(getattr(SimPlatform, name)))

    def _noting(self, grant: Callable[..., tuple[str, Any]]) -> Callable[..., tuple[str, Any]]:
        def noting(*arguments: Any, **named: Any) -> tuple[str, Any]:
            granted = grant(*arguments, **named)
            self.secrets.append(granted[0])
            return granted

        return noting


async def test_secrets_tokens_and_tickets_are_in_no_log_answer_event_metric_or_row(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    minted = Minted(monkeypatch)
    http, metrics = free_address(), free_address()
    environment = {
        "GATEWAY_LOG__LEVEL": "debug",
        "GATEWAY_HTTP__BIND": http,
        "GATEWAY_HTTP__PUBLIC_URL": f"http://{http}",
        "GATEWAY_METRICS__BIND": metrics,
    }
    bot, ada = await world.add_bot(), world.sim.create_person("Ada")
    await bot.bind_person(ada)
    await _add_posted_bot(world)
    secrets = [bot.app.secret, ENCRYPT_KEY, VERIFICATION_TOKEN, PASSWORD, world.runtime_token, world.key]
    _, user_token = await world.directory.add_user_token(world.owner)
    secrets.append(user_token)
    seen: list[str] = []
    async with world.daemon(environment=environment) as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        async with httpx2.AsyncClient(base_url=daemon.url, trust_env=False) as browser:
            browser.headers["Origin"] = daemon.url
            secrets += await _let_a_stranger_bind(world, bot, browser)
            async with trio.open_nursery() as nursery:
                heard = await nursery.start(_listen, daemon.url, world, user_token)
                world.sim.say(ada, bot.app, "good morning")
                await _make_trouble(world, bot)
                await runtime.answer("**good morning**")
                await world.until("select bool_and(status = 'sent') from outbound_message where kind = 'answer'")
                await _rotate(world, bot)
                secrets.append(bot.app.secret)
                seen += await _ask_for_everything(world, bot, browser, user_token, metrics)
                assert await daemon.terminate() == 0  # which ends the stream
            seen += heard
        await _look_for(world, secrets, minted, [*seen, daemon.log, str(daemon.lines)])
    assert "bound_at" in "".join(seen)
    assert any("task:completed" in line for line in seen)
    assert len(minted.secrets) >= 3


async def _add_posted_bot(world: World) -> None:
    """A bot that is posted to, for its two secrets more."""
    agent, app = await world.add_agent("Posted"), world.sim.create_app("Posted")
    installer = InstallationService(
        PostgresInstallationStore(world.pool), KeyRing.parse(world.key), identify_with(world.sim.base_url)
    )
    await installer.add(
        NewApp(
            agent.id,
            app.app_id,
            app.secret,
            event_mode="http",
            encrypt_key=ENCRYPT_KEY,
            verification_token=VERIFICATION_TOKEN,
        )
    )


async def _let_a_stranger_bind(world: World, bot: LarkBot, browser: httpx2.AsyncClient) -> list[str]:
    """The link's token, and the session that was opened."""
    await world.directory.add_member(
        world.workspace, await world.directory.add_user("eve@example.invalid", "Eve", PASSWORD)
    )
    said = world.sim.say(world.sim.create_person("Eve"), bot.app, "let me in")
    (question,) = await world.answers(said.message.chat_id)
    token = re.search(r"/lark/bind\?token=([\w-]{43})", question.content)
    assert token
    signed_in = await browser.post("/api/auth/login", json={"email": "eve@example.invalid", "password": PASSWORD})
    assert signed_in.status_code == 200
    assert (await browser.get("/lark/bind", params={"token": token[1]})).status_code == 200
    assert (await browser.post("/api/lark/binding/redeem", json={"token": token[1]})).status_code == 200
    return [token[1], *browser.cookies.values()]


async def _listen(
    url: str, world: World, token: str, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Collect what the live stream says, until cancelled."""
    heard: list[str] = []
    path = f"{url}/api/workspaces/{world.workspace.slug}/events"
    async with httpx2.AsyncClient(timeout=None, trust_env=False) as client:
        async with client.stream("GET", path, headers={"Authorization": f"Bearer {token}"}) as response:
            assert response.status_code == 200
            task_status.started(heard)
            async for line in response.aiter_lines():
                heard.append(line)


async def _make_trouble(world: World, bot: LarkBot) -> None:
    """Errors of every kind on the way out: they are what logs are full of."""
    path = "/open-apis/im/v1/messages"
    world.sim.fail_next(path, method="POST", status=500)
    world.sim.fail_next(path, method="POST", status=429, code=99991400)
    world.sim.revoke_tokens(bot.app)
    (connection,) = await bot.connected()
    connection.drop()
    with trio.fail_after(20):
        await world.sim.until(lambda: len(world.sim.connections(bot.app)) >= 2)
    await bot.connected()


async def _rotate(world: World, bot: LarkBot) -> None:
    world.sim.rotate_secret(bot.app)
    await bot.install()
    with trio.fail_after(20):
        await world.sim.until(lambda: len(world.sim.connections(bot.app)) >= 3)
    await bot.connected()


async def _ask_for_everything(
    world: World, bot: LarkBot, browser: httpx2.AsyncClient, token: str, metrics: str
) -> list[str]:
    workspace = f"/api/workspaces/{world.workspace.slug}"
    paths = [
        "/api/me",
        f"{workspace}/chats",
        f"{workspace}/outbound",
        f"{workspace}/lark/installations",
        f"{workspace}/lark/installations/{bot.id}/audit",
        f"{workspace}/lark/installations/{bot.id}/bindings",
        "/readyz",
        "/nothing/here",
    ]
    answers = [await browser.get(path, headers={"Authorization": f"Bearer {token}"}) for path in paths]
    answers.append(await browser.get(paths[1], headers={"Authorization": f"Bearer {token}x"}))
    answers.append(await browser.get(f"http://{metrics}/metrics"))
    assert [answer.status_code for answer in answers] == [200] * 7 + [404, 401, 200]
    return [answer.text for answer in answers]


async def _look_for(world: World, secrets: list[str], minted: Minted, seen: list[str]) -> None:
    everything = "".join(seen) + await world.everything_stored()
    found = [secret[:6] + "…" for secret in [*secrets, *minted.secrets] if secret and secret in everything]
    assert found == []
