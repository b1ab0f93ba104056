"""Resources over real sockets: the control API attaches, a bot downloads, large and slow and broken ones too."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from gateway.simulator import Simulator, open_simulator
from gateway.simulator.platform import App
from support.sim_client import SimClient, SimRefused


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with open_simulator(redelivery_scale=0.001) as simulator:
        simulator.create_person("Ada")
        yield simulator


@pytest.fixture
async def app(simulator: Simulator) -> App:
    return simulator.create_app("Echo")


async def say(simulator: Simulator, **attachment: Any) -> dict[str, Any]:
    return await SimClient(simulator.base_url).say("Ada", "Echo", attachments=[attachment])


def fetch(base_url: str, path: str, token: str = "") -> tuple[http.client.HTTPResponse, int]:
    """The response and how many bytes came. Raises IncompleteRead and ConnectionResetError."""
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        count = 0
        while piece := response.read(1 << 16):
            count += len(piece)
        return response, count
    finally:
        connection.close()


async def download(simulator: Simulator, app: App, said: dict[str, Any]) -> tuple[http.client.HTTPResponse, int]:
    token, _ = simulator.platform.grant_token(app.app_id, app.secret, simulator.clock.now())
    key = said["resources"][0]["key"]
    path = f"/open-apis/im/v1/messages/{said['message_id']}/resources/{key}?type=file"
    return await trio.to_thread.run_sync(fetch, simulator.base_url, path, token)


async def test_file_of_101_mib_is_streamed_without_a_length(simulator: Simulator, app: App) -> None:
    size = 101 * 1024 * 1024
    said = await say(simulator, kind="file", name="big.bin", size=size, any_size=True, says_length=False)
    response, count = await download(simulator, app, said)

    assert (response.status, count) == (200, size)
    assert response.getheader("content-length") is None
    assert response.getheader("content-type") == "application/octet-stream"


async def test_download_breaks_where_it_is_told_to(simulator: Simulator, app: App) -> None:
    said = await say(simulator, kind="file", name="a.bin", size=1_000_000, breaks_after=100_000)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        await download(simulator, app, said)


async def test_download_the_client_gives_up_leaves_the_platform_well(simulator: Simulator, app: App) -> None:
    said = await say(simulator, kind="file", name="slow.bin", size=1_000_000, piece_bytes=10, pause_seconds=60)
    with trio.move_on_after(0.2):
        stream = await trio.open_tcp_stream("127.0.0.1", urlsplit(simulator.base_url).port or 0)
        async with stream:
            key = said["resources"][0]["key"]
            await stream.send_all(f"GET /_sim/resources/{key} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
            while True:
                await stream.receive_some()
    quick = await say(simulator, kind="file", name="quick.bin", base64=base64.b64encode(b"abc").decode())
    assert (await download(simulator, app, quick))[1] == 3


async def test_people_see_a_picture_but_never_as_a_page(simulator: Simulator, app: App) -> None:
    page = base64.b64encode(b"<script>alert(1)</script>").decode()
    said = await say(simulator, kind="image", name="a.html", mime_type="text/html", base64=page)
    path = f"/_sim/resources/{said['resources'][0]['key']}"
    response, count = await trio.to_thread.run_sync(fetch, simulator.base_url, path)

    assert (response.status, count) == (200, 25)
    assert "sandbox" in (response.getheader("content-security-policy") or "")
    assert response.getheader("x-content-type-options") == "nosniff"
    assert (response.getheader("content-disposition") or "").startswith("attachment")
    assert json.loads(said["content"])["image_key"] == said["resources"][0]["key"]


@pytest.mark.parametrize("wrong", [{"kind": "hologram"}, {"kind": "file", "base64": "!"}, {"kind": "file", "bytes": 1}])
async def test_attachment_wrong_is_said(simulator: Simulator, app: App, wrong: dict[str, Any]) -> None:
    with pytest.raises(SimRefused) as refused:
        await say(simulator, **wrong)
    assert refused.value.status == 400
