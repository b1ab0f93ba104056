"""Events over HTTP on real sockets, and judged by the official SDK's own checker."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.simulator import Simulator, open_simulator
from support.sim_client import SimClient, SimRefused

DISPATCH = Path(__file__).parents[2] / "support" / "strangers" / "lark_oapi_dispatch.py"
NAMES = {
    "x-lark-request-timestamp": "X-Lark-Request-Timestamp",
    "x-lark-request-nonce": "X-Lark-Request-Nonce",
    "x-lark-signature": "X-Lark-Signature",
}


@dataclass
class Receiver:
    """An HTTP server that keeps what is posted and says success, or echoes a plain challenge."""

    url: str
    letters: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            headers = {NAMES.get(name.lower(), name): value for name, value in self.headers.items()}
            found.letters.append({"headers": headers, "body": body})
            challenge = json.loads(body).get("challenge")
            answer = json.dumps({"challenge": challenge} if challenge else {"msg": "success"}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        found = Receiver(f"http://127.0.0.1:{server.server_port}/events")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with open_simulator(redelivery_scale=0.001) as simulator:
        simulator.create_person("Ada")
        yield simulator


@pytest.fixture
async def client(simulator: Simulator) -> SimClient:
    return SimClient(simulator.base_url)


async def dispatch(app: dict[str, Any], letters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    given = {"encrypt_key": app["encrypt_key"], "token": app["verification_token"], "letters": letters}
    done = await trio.run_process(
        [sys.executable, str(DISPATCH)], stdin=json.dumps(given).encode(), capture_stdout=True, capture_stderr=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_event_posted_is_accepted_by_the_sdk_and_spoiled_ones_are_not(
    client: SimClient, receiver: Receiver
) -> None:
    app = await client.create_app("Echo", event_mode="http", event_url=receiver.url, encrypt_key="simulated key")
    await client.say("Ada", "Echo", "right", wait_seconds=10)
    for how in ("wrong_signature", "wrong_token"):
        await client.call("POST", "push-faults", {"how": how, "app": "Echo"})
        said = await client.say("Ada", "Echo", how, wait_seconds=10)
        assert said["events"][0]["pushes"][0]["outcome"] == "delivered"
    await client.call("POST", "apps/Echo/verify-url", {})

    right, wrong_signature, wrong_token, challenge = await dispatch(app, receiver.letters)
    assert (right["status"], json.loads(right["body"])) == (200, {"msg": "success"})
    assert wrong_signature["status"] == wrong_token["status"] == 500
    assert challenge["status"] == 200
    assert "challenge" in json.loads(challenge["body"])
    assert challenge["accepted"] == ["right"]


async def test_address_is_verified_and_secrets_are_shown_once(client: SimClient, receiver: Receiver) -> None:
    app = await client.create_app("Echo", event_url=receiver.url)
    await client.call("PATCH", "apps/Echo", {"event_mode": "http"})
    verified = await client.call("POST", "apps/Echo/verify-url", {})
    assert (verified["verified"], verified["status"]) == (True, 200)
    assert app["verification_token"] not in json.dumps(await client.call("GET", "apps"))

    await client.call("PATCH", "apps/Echo", {"event_url": "http://127.0.0.1:1/"})
    verified = await client.call("POST", "apps/Echo/verify-url", {})
    assert (verified["verified"], verified["status"]) == (False, 0)
    said = await client.say("Ada", "Echo", "hi", wait_seconds=0.2)
    assert said["events"][0]["pushes"][0]["outcome"] == "unreachable"
    with pytest.raises(SimRefused, match="only"):
        await client.call("PATCH", "apps/Echo", {"event_url": "http://example.com/"})
