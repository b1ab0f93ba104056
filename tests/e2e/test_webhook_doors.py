"""Webhooks and those who mean no good: attacks on the daemon, each beside a sender that must not notice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest
import trio

from gateway.ids import USER_TOKEN_PREFIX, new_token, token_hash
from gateway.keyring import KeyRing, generate_key
from gateway.postgres.pool import Pool
from support.autopilots import Autopilots, open_autopilots
from support.processes import GatewayProcess, open_gateway
from support.webhooks import SECRET, Hook, HookServer, open_hook_server, signed

BODY = b'{"action":"opened"}'
ANSWER_SECONDS = 3.0
"""How long an answer may take that waits for no body: none would come before the server's own time-outs."""


@pytest.fixture
async def autopilots(pool: Pool) -> Autopilots:
    autopilots = await open_autopilots(pool)
    await autopilots.tenant.sql("update agent_runtime set last_heartbeat_at = now() + interval '1 hour'")
    return autopilots


@pytest.fixture
def key() -> str:
    return generate_key()


@pytest.fixture
def hooks(pool: Pool, autopilots: Autopilots, key: str) -> HookServer:
    return open_hook_server(pool, autopilots.tenant, ring=KeyRing.parse(key))


@pytest.fixture
def settings(database: str, tmp_path: Path, key: str) -> dict[str, str]:
    return {
        "GATEWAY_DATABASE_URL": database,
        "GATEWAY_SECRET_KEY": key,
        "GATEWAY_STATE_DIR": str(tmp_path / "state"),
        "GATEWAY_HTTP__BIND": "127.0.0.1:0",
    }


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=20, trust_env=False) as client:
        yield client


class Senders:
    """Senders of one daemon, whose proxy says where they are."""

    def __init__(self, gateway: GatewayProcess, client: httpx2.AsyncClient) -> None:
        self.gateway, self.client = gateway, client

    async def post(
        self, token: str, headers: Mapping[str, str], *, address: str = "192.0.2.1", **named: str
    ) -> httpx2.Response:
        sent = {name.replace("_", "-"): value for name, value in {**headers, **named}.items()}
        return await self.client.post(
            f"{self.gateway.url}/api/webhooks/autopilots/{token}",
            content=BODY,
            headers={**sent, "X-Forwarded-For": address},
        )

    async def announce(self, token: str, address: str = "192.0.2.1") -> int:
        """The status of the answer to a request whose body is announced and never sent."""
        path, headers = f"/api/webhooks/autopilots/{token}", {"X-Forwarded-For": address, "Content-Length": "200000"}
        with trio.fail_after(ANSWER_SECONDS):
            async with open_raw(self.gateway, "POST", path, headers) as stream:
                return int((await read_until(stream, "\r\n")).split()[1])


@asynccontextmanager
async def open_raw(
    gateway: GatewayProcess, method: str, path: str, headers: Mapping[str, str]
) -> AsyncIterator[trio.SocketStream]:
    """A connection over which the head of a request was sent, and nothing else."""
    place = urlsplit(gateway.url)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {place.netloc}", *(f"{name}: {headers[name]}" for name in headers)]
    async with await trio.open_tcp_stream(str(place.hostname), int(place.port or 0)) as stream:
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        yield stream


async def read_until(stream: trio.SocketStream, text: str) -> str:
    received = b""
    while text.encode() not in received:
        piece = await stream.receive_some(4096)
        assert piece, f"the connection ended with {received!r}"
        received += piece
    return received.decode()


# --- addresses --------------------------------------------------------------------------------------------------------


async def add_guest(hooks: HookServer) -> str:
    """A guest of the workspace, and a token of theirs."""
    user_id, token = await hooks.autopilots.add_person("guest"), new_token(USER_TOKEN_PREFIX)
    await hooks.sql(
        "insert into api_token (id, token_hash, user_id) values (%s, %s, %s)", uuid4(), token_hash(token), user_id
    )
    return token


async def test_guest_reads_an_autopilot_and_finds_no_way_to_fire_its_agent(
    hooks: HookServer, settings: dict[str, str], client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    hook = await hooks.add_hook(provider="gitlab", secret=SECRET)
    await hooks.sql("update agent set visibility = 'private'")
    guest = {"Authorization": f"Bearer {await add_guest(hooks)}"}
    workspace = f"/api/workspaces/{hooks.autopilots.tenant.workspace_id}"
    autopilot = f"/api/autopilots/{hook.autopilot_id}"
    seen = ""
    async with open_gateway(["serve"], environment=settings, log=tmp_path / "log") as gateway:
        senders = Senders(gateway, client)
        async with open_raw(gateway, "GET", f"{workspace}/events", guest) as live:
            with trio.fail_after(10):
                seen += await read_until(live, "resync")
            headers = {"X-Gitlab-Token": SECRET, "Authorization": "Bearer not-a-real-token", "Cookie": "a=not-a-cookie"}
            sent = (await senders.post(hook.token, headers)).json()
            assert sent["status"] in {"accepted", "skipped"}
            with trio.fail_after(10):
                seen += await read_until(live, "autopilot:run")
        delivery = f"{autopilot}/deliveries/{sent['delivery_id']}"
        pages = [autopilot, f"{autopilot}/triggers", f"{autopilot}/runs", f"{autopilot}/deliveries", delivery]
        for path in [*pages, f"{workspace}/autopilots", f"{workspace}/deliveries", f"{workspace}/agents"]:
            page = await client.get(f"{gateway.url}{path}", headers=guest)
            assert page.status_code == 200, path
            seen += page.text
        assert (await client.post(f"{gateway.url}{autopilot}/trigger", headers=guest)).status_code == 403
        rotate = f"{autopilot}/triggers/{hook.trigger_id}/rotate-token"
        assert (await client.post(f"{gateway.url}{rotate}", headers=guest)).status_code == 403
        assert '"has_webhook_url":true' in seen
        for hidden in (hook.token, SECRET, SECRET[-4:] + '"', "not-a-real-token", "not-a-cookie"):
            assert hidden not in seen
        assert hook.token not in gateway.log


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_guesses_and_forgeries_keep_no_good_delivery_out(
    hooks: HookServer, settings: dict[str, str], client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    signed_hook, other = await hooks.add_hook(secret=SECRET), await hooks.add_hook(secret=SECRET)
    settings |= {"GATEWAY_HTTP__TRUSTED_PROXIES": "127.0.0.1", "GATEWAY_WEBHOOKS__PER_IP_PER_MINUTE": "20"}
    settings |= {"GATEWAY_WEBHOOKS__PER_TOKEN_PER_MINUTE": "10"}
    async with open_gateway(["serve"], environment=settings, log=tmp_path / "log") as gateway:
        senders = Senders(gateway, client)

        async def deliver(hook: Hook, name: str) -> str:
            answer = (await senders.post(hook.token, signed(BODY), Idempotency_Key=name)).json()
            return str(answer.get("status", answer.get("code")))

        guesses = Counter([(await senders.post(f"awt_{number}", {})).status_code for number in range(40)])
        assert guesses == {404: 20, 429: 20}
        assert await deliver(signed_hook, "after forty guesses") == "accepted"
        assert await senders.announce("awt_guess") == 429
        assert await senders.announce("awt_guess", "192.0.2.2") == 404
        # An address that is made during the flood is found as well.
        new = await hooks.add_hook(secret=SECRET)
        with trio.fail_after(5):
            while await deliver(new, "new") == "rate_limited":
                await trio.sleep(0.01)

        async def forge(number: int) -> int:
            headers = signed(b"forged") if number % 2 else {}
            return (await senders.post(other.token, headers, address=f"198.51.100.{number}")).status_code

        forged = Counter([await forge(number) for number in range(120)])
        assert forged == {401: 10, 429: 110}
        assert await deliver(other, "after the storm") == "accepted"
        unsigned = await hooks.add_hook()
        crowd = Counter([(await senders.post(unsigned.token, {})).status_code for _ in range(15)])
        assert crowd == {200: 10, 429: 5}
        assert await senders.announce(unsigned.token) == 429
    rejected = "select count(*) from webhook_delivery where status = 'rejected' and (reason_code = 'rate_limited') = %s"
    # Each of the two triggers has one row for all that was turned away in the minute.
    assert await hooks.sql(rejected, False) == [(10,)]
    assert await hooks.sql(rejected, True) == [(2,)]


async def begun(hooks: HookServer) -> list[tuple[Any, ...]]:
    """What became of the deliveries that had to wait, in the order of their runs."""
    return await hooks.sql(
        "select d.turn, d.status from webhook_delivery d left join autopilot_run r on r.webhook_delivery_id = d.id"
        " where d.turn is not null order by r.created_at nulls last, d.turn"
    )


async def test_burst_of_signed_deliveries_is_stored_and_begun_once_each_in_order_also_after_a_kill(
    hooks: HookServer, settings: dict[str, str], client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    hook = await hooks.add_hook(secret=SECRET)
    settings |= {"GATEWAY_WEBHOOKS__PER_TOKEN_PER_MINUTE": "25"}
    answers: Counter[tuple[int, str]] = Counter()

    async def deliver(senders: Senders, number: int) -> None:
        response = await senders.post(hook.token, signed(BODY), Idempotency_Key=f"d{number}")
        answers[response.status_code, response.json()["status"]] += 1

    options: dict[str, Any] = {"environment": settings, "log": tmp_path / "log"}
    async with open_gateway(["serve"], **options) as gateway:
        async with trio.open_nursery() as burst:
            for number in range(100):
                burst.start_soon(deliver, Senders(gateway, client), number)
        await gateway.kill()
    assert answers == {(200, "accepted"): 25, (200, "queued"): 75}
    assert [status for _, status in await begun(hooks)] == ["queued"] * 75
    # A minute that lasts a second.
    settings |= {"SHORT_MINUTE_SECONDS": "1"}
    async with open_gateway(["serve"], crash_at=("webhooks.turn_claimed", 5), **options) as gateway:
        assert await gateway.wait() == -9
    assert [status for _, status in await begun(hooks)] == ["dispatched"] * 4 + ["queued"] * 71
    # The one that was claimed by the process that died is claimed again when its lease is over.
    await hooks.sql("update webhook_delivery set available_at = now() where status = 'queued'")
    async with open_gateway(["serve"], crash_at=("nowhere", 1), **options):
        with trio.fail_after(20):
            while any(status != "dispatched" for _, status in await begun(hooks)):
                await trio.sleep(0.05)
    turns = await begun(hooks)
    assert turns == sorted(turns)
    assert await hooks.sql("select count(*), count(distinct webhook_delivery_id) from autopilot_run") == [(100, 100)]
    assert await hooks.sql("select distinct status from webhook_delivery") == [("dispatched",)]
