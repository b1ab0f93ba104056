"""The simulator's HTTP side over real sockets: the control API, the chat page, lost answers, the command."""

from __future__ import annotations

import http.client
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from gateway.errors import ConfigError
from gateway.simulator import Simulator, open_simulator, run_simulator
from support.processes import open_gateway
from support.sim_client import SimClient, SimRefused


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with open_simulator(redelivery_scale=0.001) as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: Simulator) -> SimClient:
    return SimClient(simulator.base_url)


async def fetch(
    simulator: Simulator, method: str, path: str, body: str = "", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    def call() -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(simulator.base_url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    return await trio.to_thread.run_sync(call)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com", "::"])
async def test_simulator_beyond_loopback_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        await run_simulator(host=host)


async def test_simulator_port_taken_is_refused_with_the_port(simulator: Simulator) -> None:
    port = urlsplit(simulator.base_url).port
    assert port is not None
    with pytest.raises(ConfigError, match=str(port)):
        await run_simulator(port=port)


async def test_page_and_its_assets_are_served_and_name_no_other_host(simulator: Simulator) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/static/chat.js", "text/javascript"),
        ("/static/chat.css", "text/css"),
        ("/page/launcher", "text/html"),
        ("/static/launcher.js", "text/javascript"),
    ):
        status, headers, body = await fetch(simulator, "GET", path)
        assert (status, headers["content-type"].partition(";")[0]) == (200, kind)
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert b"//" not in body.replace(b"// ", b"")
        assert b"innerHTML" not in body


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"host": "rebound.example"}, {"origin": "null"}]
)
async def test_control_call_from_another_web_page_is_refused(simulator: Simulator, headers: dict[str, str]) -> None:
    status, _, _ = await fetch(simulator, "POST", "/_sim/apps", "{}", **headers)

    assert status == 403
    assert simulator.platform.apps == {}


async def test_answer_lost_the_connection_is_reset_and_the_effect_stands(simulator: Simulator) -> None:
    app, ada = simulator.create_app("Echo"), simulator.create_person("Ada")
    chat = simulator.direct_chat(ada, app)
    token, _ = simulator.platform.grant_token(app.app_id, app.secret, simulator.clock.now())
    simulator.fail_next("/open-apis/im/v1/messages", lose_answer=True)

    content = json.dumps({"text": "hi"})
    body = json.dumps({"receive_id": chat.chat_id, "msg_type": "text", "content": content})
    path = "/open-apis/im/v1/messages?receive_id_type=chat_id"
    with pytest.raises(ConnectionResetError):
        await fetch(simulator, "POST", path, body, authorization=f"Bearer {token}")

    assert [message.text for message in simulator.sent(chat)] == ["hi"]


async def test_control_morning_by_another_process(simulator: Simulator, client: SimClient) -> None:
    app = await client.create_app("Echo", connections_max=3)
    ada = await client.create_person("Ada")
    group = await client.create_group("Team", ["Echo"], ["Ada"])
    assert app["app_secret"] == simulator.platform.app("Echo").secret
    assert ada["open_ids"].keys() == {app["app_id"]}
    said = await client.say("Ada", group["chat_id"], "@Echo hello", wait_seconds=0)

    assert said["text"] == "@Echo hello"
    assert said["events"][0]["pushes"][0]["outcome"] == "no_connection"
    assert [chat["name"] for chat in await client.chats("Ada")] == ["Echo", "Team"]
    assert (await client.event(said["events"][0]["event_id"]))["state"] in {"pending", "given_up"}
    assert await client.connections(app["app_id"]) == []
    assert await client.most_live(app["app_id"]) == 0


async def test_control_secret_shown_at_creation_and_rotation_only(simulator: Simulator, client: SimClient) -> None:
    app = await client.create_app("Echo")
    rotated = await client.rotate_secret("Echo")

    assert rotated != app["app_secret"]
    listed = json.dumps(await client.call("GET", "apps")) + json.dumps(await client.calls())
    assert rotated not in listed
    assert app["app_secret"] not in listed


async def test_control_wait_for_answers_returns_when_they_are_there(simulator: Simulator, client: SimClient) -> None:
    app, ada = simulator.create_app("Echo"), simulator.create_person("Ada")
    chat = simulator.direct_chat(ada, app)
    found: list[list[dict[str, Any]]] = []

    async def wait() -> None:
        found.append(await client.sent(chat.chat_id, count=1, seconds=20))

    from gateway.simulator.messages import MessageDraft

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            simulator.messages.send(app, chat, MessageDraft("text", '{"text":"late"}'), now=0, now_ms=0)
    assert [message["text"] for message in found[0]] == ["late"]


async def test_control_bad_calls_say_what_is_wrong(client: SimClient, simulator: Simulator) -> None:
    simulator.create_app("Echo")
    with pytest.raises(SimRefused, match="chunk_count"):
        await client.say("Ada", "Echo", "hi", chunk_count=3)
    with pytest.raises(SimRefused, match="'Ada' names 0"):
        await client.say("Ada", "Echo", "hi")
    with pytest.raises(SimRefused, match="name"):
        await client.call("PATCH", "apps/Echo", {"name": "Renamed"})
    await client.create_person("Ada")
    with pytest.raises(SimRefused, match="order"):
        await client.say("Ada", "Echo", "hi", chunks=2, order=[0, 2])
    with pytest.raises(SimRefused, match="conn-9"):
        await client.drop("conn-9")
    with pytest.raises(SimRefused, match="base64"):
        await client.push_event("Echo", payload_base64="!!")
    with pytest.raises(SimRefused) as refusal:
        await client.event("nothing")
    assert refusal.value.status == 404


async def test_control_settings_change_what_the_platform_does(simulator: Simulator, client: SimClient) -> None:
    status = await client.settings(client_config={"PingInterval": 3}, rate_limits=False, redelivery_scale=0.5)

    assert status["client_config"]["PingInterval"] == 3
    assert status["client_config"]["ReconnectNonce"] == 30
    assert not simulator.limits.enabled
    assert simulator.delivery.redelivery_scale == 0.5


async def test_command_prints_ready_line_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "sim.log"
    async with open_gateway(["sim", "--app", "Echo", "--person", "Ada"], environment={}, log=log) as process:
        ready = process.ready
        client = SimClient(ready["http"])
        assert (await client.say("Ada", "Echo", "hello"))["sender_name"] == "Ada"
        assert ready["apps"][0]["app_id"] == (await client.call("GET", "apps"))[0]["app_id"]
        assert await process.terminate(5) == 0
    assert ready["apps"][0]["app_secret"] not in process.log


async def test_command_beyond_loopback_is_a_configuration_error(tmp_path: Path) -> None:
    log = tmp_path / "sim.log"
    arguments = ["sim", "--host", "0.0.0.0"]
    async with open_gateway(arguments, environment={}, log=log, wait_ready=False) as process:
        assert await process.wait() == 78
    assert "loopback" in process.log


async def test_control_forwards_and_recalls_what_people_said(simulator: Simulator, client: SimClient) -> None:
    simulator.create_app("Echo")
    for name in ("Ada", "Grace"):
        simulator.create_person(name)
    said = await client.say("Ada", "Echo", "first")
    bundle = await client.say("Ada", "Echo", forwards=[said["message_id"]])
    assert bundle["message_type"] == "merge_forward"
    with pytest.raises(SimRefused, match="not in the chat"):
        await client.say("Grace", "Echo", forwards=[said["message_id"]])

    gone = await client.call("DELETE", f"messages/{said['message_id']}")
    assert (gone["deleted"], gone["text"]) == (True, "")
    with pytest.raises(SimRefused, match="not found"):
        await client.call("DELETE", "messages/om_nothing")
