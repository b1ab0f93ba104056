"""Two other ways to reach the platform, on real processes: events that it posts, and a proxy in between."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import asks
import pytest
import trio
from asks.errors import AsksException

from gateway.keyring import KeyRing
from gateway.lark.install.service import InstallationService, NewApp, identify_with
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.simulator.platform import App, Person, open_id, set_options
from support.posted import KEY, TOKEN, Posted, challenge, encrypted, message_event, signed
from support.processes import GatewayProcess
from support.proxy_process import open_proxy
from support.world import LarkBot, World

ECHO = (sys.executable, "-m", "gateway.simulator.echo_agent")
NAME = "platform.test"


class PostedBot(LarkBot):
    """A bot whose events a test posts in the platform's name."""

    async def install(self) -> None:
        service = InstallationService(
            PostgresInstallationStore(self.world.pool),
            KeyRing.parse(self.world.key),
            identify_with(self.world.sim.base_url),
        )
        app = NewApp(
            self.agent.id,
            self.app.app_id,
            self.app.secret,
            event_mode="http",
            encrypt_key=KEY,
            verification_token=TOKEN,
        )
        self.id: UUID = (await service.add(app)).installation.id

    async def post(self, daemon: GatewayProcess, posted: Posted) -> tuple[int, Any]:
        url = f"{daemon.url}/api/webhooks/lark/{self.id}"
        answer = await asks.post(url, data=posted.body, headers=posted.headers, timeout=10)
        return answer.status_code, json.loads(answer.content)

    def event(self, person: Person, text: str, message_id: str) -> Posted:
        said = self.world.sim.direct_chat(person, self.app)
        body = message_event(
            text,
            app_id=self.app.app_id,
            message_id=message_id,
            chat_id=said.chat_id,
            sender=open_id(self.app.app_id, person.union_id),
        )
        return signed(encrypted(body))


async def add_posted_bot(world: World) -> tuple[PostedBot, App]:
    app = world.sim.create_app("Echo")
    bot = PostedBot(world, app, await world.add_agent("Echo"))
    await bot.install()
    return bot, app


async def test_posted_events_are_taken_by_any_replica_and_answered_once_by_the_one_that_holds_the_lease(
    world: World,
) -> None:
    bot, app = await add_posted_bot(world)
    ada = await bot.bind("Ada")
    chat = world.sim.direct_chat(ada, app)
    async with world.daemon() as one, world.daemon() as two, world.agent(one, *ECHO):
        await world.until("select count(*) = 1 from channel_connection where state = 'http'")
        assert await bot.post(one, Posted({}, encrypted(challenge("ping")))) == (200, {"challenge": "ping"})
        for text, message_id, replicas in (("plum pudding", "om_1", (one, two)), ("quince jelly", "om_2", (two, one))):
            for daemon in replicas:
                assert await bot.post(daemon, bot.event(ada, text, message_id)) == (200, {"msg": "success"})
        await world.until("select count(*) = 2 from chat_message where role = 'assistant'")
        await world.until("select bool_and(status = 'sent') from outbound_message")
        await world.until("select last_event_at is not null from channel_connection where state = 'http'")
        assert (await bot.post(two, Posted({}, encrypted(challenge(token="x")))))[0] == 401
        for daemon in (one, two):
            assert await daemon.terminate() == 0
            assert not any(secret in daemon.log for secret in (KEY, TOKEN, app.secret, "plum", "quince"))
    assert sorted(await world.contents()) == ["plum pudding", "quince jelly"]
    answers = [message.content for message in world.sim.sent(chat)]
    assert len(answers) == 2
    assert bot.most_live == 0


@pytest.mark.parametrize("point", ["lark.pushed", "inbound.fused.before", "inbound.fused.committed", "inbound.settled"])
async def test_replica_that_dies_on_a_posted_event_leaves_it_stored_once_by_its_redelivery(
    world: World, point: str
) -> None:
    bot, app = await add_posted_bot(world)
    ada = await bot.bind("Ada")
    chat = world.sim.direct_chat(ada, app)
    # The very first message makes its session step by step; the one that matters goes the fused way.
    async with world.daemon() as daemon:
        assert (await bot.post(daemon, bot.event(ada, "before", "om_0")))[0] == 200
    async with world.daemon(crash_at=(point, 1)) as daemon:
        with pytest.raises((OSError, AsksException, trio.BrokenResourceError)):
            await bot.post(daemon, bot.event(ada, "plum pudding", "om_1"))
        assert await daemon.wait() != 0
    async with world.daemon() as daemon, world.agent(daemon, *ECHO):
        for _ in range(2):
            assert await bot.post(daemon, bot.event(ada, "plum pudding", "om_1")) == (200, {"msg": "success"})
        await world.answers(chat.chat_id)
    assert await world.contents() == ["before", "plum pudding"]
    assert len(world.sim.sent(chat)) == 1


async def test_mode_that_changes_closes_the_socket_and_takes_posts(world: World) -> None:
    app = world.sim.create_app("Echo")
    agent = await world.add_agent("Echo")
    by_socket = LarkBot(world, app, agent)
    await by_socket.install()
    ada = await by_socket.bind("Ada")
    async with world.daemon() as daemon:
        (connection,) = await by_socket.connected()
        bot = PostedBot(world, app, agent)
        bot.id = by_socket.id
        assert (await bot.post(daemon, bot.event(ada, "too early", "om_1")))[0] == 409
        await bot.install()
        with trio.fail_after(20):
            await connection.ended.wait()
        await world.until("select count(*) = 1 from channel_connection where state = 'http'")
        assert (await bot.post(daemon, bot.event(ada, "in time", "om_2")))[0] == 200
    assert await world.contents() == ["in time"]


@pytest.mark.parametrize("setting", ["GATEWAY_LARK__PROXY_URL", "ALL_PROXY"])
async def test_daemon_reaches_the_platform_through_the_proxy_and_in_no_other_way(world: World, setting: str) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    base_url = world.sim.base_url.replace("127.0.0.1", NAME)  # a name that means something to the proxy alone
    world.sim.world.ws_url = world.sim.world.ws_url.replace("127.0.0.1", NAME)
    async with open_proxy(credentials="ann:fake-pass", loopback_name=NAME) as proxy:
        environment = {setting: proxy.url(credentials="ann:fake-pass"), "GATEWAY_LARK__OPEN_BASE_URL": base_url}
        async with world.daemon(environment=environment) as daemon, world.agent(daemon, *ECHO):
            await bot.connected()
            said = world.sim.say(ada, bot.app, "good morning")
            await world.answers(said.message.chat_id)
            await proxy.kill()
            await world.until("select position(%s in detail) > 0 from channel_connection", f"127.0.0.1:{proxy.port}")
            assert await daemon.terminate() == 0
            assert "fake-pass" not in daemon.log
    assert len(proxy.targets("CONNECT")) == 1
    assert any(target.startswith(f"{base_url}/open-apis/im/v1/messages") for target in proxy.targets("POST"))


async def test_daemon_with_a_proxy_that_cannot_be_used_exits_with_78(world: World) -> None:
    environment = {"ALL_PROXY": "ftp://ann:fake-pass@127.0.0.1:1"}
    async with world.daemon(environment=environment, wait_ready=False) as daemon:
        assert await daemon.wait() == 78
        assert "ALL_PROXY: a ftp:// proxy is not supported" in daemon.log
        assert "fake-pass" not in daemon.log


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_daemon_with_certificates_that_cannot_be_read_exits_with_78(
    world: World, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_text(content)
    async with world.daemon(environment={"SSL_CERT_FILE": str(path)}, wait_ready=False) as daemon:
        assert await daemon.wait() == 78
        assert "SSL_CERT_FILE" in daemon.log
        assert "authorities.pem' is no file of certificates that can be read" in daemon.log


class SimulatedPosts(PostedBot):
    """The same bot, whose events the simulated platform posts."""

    def post_to(self, daemon: GatewayProcess) -> None:
        set_options(
            self.app,
            {
                "event_mode": "http",
                "event_url": f"{daemon.url}/api/webhooks/lark/{self.id}",
                "encrypt_key": KEY,
                "verification_token": TOKEN,
            },
        )


async def test_platform_that_posts_is_verified_answered_and_refused_when_spoiled(world: World) -> None:
    app = world.sim.create_app("Echo")
    bot = SimulatedPosts(world, app, await world.add_agent("Echo"))
    await bot.install()
    ada = await bot.bind("Ada")
    world.sim.delivery.redelivery_scale = 0.01
    async with world.daemon() as daemon, world.agent(daemon, *ECHO):
        bot.post_to(daemon)
        assert (await world.sim.callbacks.verify(app))[1]
        for how in ("wrong_signature", "unsigned", "wrong_token", "wrong_key", ""):
            world.sim.spoil_pushes(how, age_seconds=3600 if how == "" else 0)
            said = world.sim.say(ada, app, f"spoiled by {how}")
            with trio.fail_after(15):
                await said.event.settled()
            # The first push is refused for what is wrong with it, the next one is as it should be.
            assert [push.outcome for push in said.event.pushes] == ["refused", "delivered"]
            assert said.event.pushes[0].ack_code in {400, 401}
        await world.answers(said.message.chat_id, 1)
        await world.until("select count(*) = 0 from agent_task where status <> 'completed'")
    assert len(await world.contents()) == 5
    assert bot.most_live == 0


async def test_replica_that_is_gone_leaves_its_posts_to_the_other_by_redelivery(world: World) -> None:
    app = world.sim.create_app("Echo")
    bot = SimulatedPosts(world, app, await world.add_agent("Echo"))
    await bot.install()
    ada = await bot.bind("Ada")
    world.sim.delivery.redelivery_scale = 0.05
    async with world.daemon() as one, world.daemon() as two, world.agent(two, *ECHO):
        bot.post_to(one)
        await one.kill()
        said = world.sim.say(ada, app, "plum pudding")
        with trio.fail_after(10):
            while not said.event.pushes or said.event.pushes[0].outcome == "waiting":
                await trio.sleep(0.01)
        assert said.event.pushes[0].outcome == "unreachable"
        bot.post_to(two)  # as a load balancer would
        with trio.fail_after(20):
            await said.event.settled()
        (answer,) = await world.answers(said.message.chat_id)
        assert "plum pudding" in answer.content
    assert await world.contents() == ["plum pudding"]
