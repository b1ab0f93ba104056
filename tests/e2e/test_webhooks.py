"""Webhooks and crashes: kill -9 at every named point, and a database that restarts under load."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
import trio

from gateway.keyring import generate_key
from gateway.postgres.pool import Pool
from support.autopilots import Autopilots, open_autopilots
from support.processes import GatewayProcess, open_gateway
from support.webhooks import Desk, Hook, open_desk, signed

POINTS = ["webhooks.recorded", "webhooks.dispatched"]
LONG_WAY = ["webhooks.recorded", "autopilot.drafted", "autopilot.issue_filed", "autopilot.dispatching"]
BODY = b'{"action":"opened"}'


@pytest.fixture
async def autopilots(pool: Pool) -> Autopilots:
    autopilots = await open_autopilots(pool)
    await autopilots.world.sql("update agent_runtime set last_heartbeat_at = now() + interval '1 hour'")
    return autopilots


def environment(database: str, tmp_path: Path, key: str) -> dict[str, str]:
    return {
        "GATEWAY_DATABASE_URL": database,
        "GATEWAY_SECRET_KEY": key,
        "GATEWAY_STATE_DIR": str(tmp_path / "state"),
        "GATEWAY_HTTP__BIND": "127.0.0.1:0",
        "GATEWAY_WEBHOOKS__PER_TOKEN_PER_MINUTE": "0",
    }


async def post(gateway: GatewayProcess, hook: Hook, name: str) -> httpx2.Response:
    headers = {key.replace("_", "-"): value for key, value in signed(BODY).items()} | {"X-GitHub-Delivery": name}
    async with httpx2.AsyncClient(timeout=30, trust_env=False) as client:
        path = f"{gateway.url}/api/webhooks/autopilots/{hook.token}"
        return await client.post(path, content=BODY, headers=headers)


async def rows(desk: Desk) -> list[tuple[Any, ...]]:
    return await desk.sql(
        "select d.dedupe_key, d.status, count(r.id) from webhook_delivery d"
        " left join autopilot_run r on r.webhook_delivery_id = d.id group by d.id order by d.dedupe_key"
    )


@pytest.mark.parametrize(
    ("mode", "point"), [*[("run_only", point) for point in POINTS], *[("create_issue", point) for point in LONG_WAY]]
)
async def test_delivery_killed_anywhere_gets_one_run(
    pool: Pool, database: str, autopilots: Autopilots, tmp_path: Path, mode: str, point: str
) -> None:
    key = generate_key()
    desk = open_desk(pool, autopilots.world)
    hook = await desk.add_hook(mode=mode, provider="github")
    settings = environment(database, tmp_path, key)
    async with open_gateway(["serve"], environment=settings, log=tmp_path / "log", crash_at=(point, 1)) as gateway:
        with pytest.raises(httpx2.HTTPError):
            await post(gateway, hook, "d1")
        assert await gateway.wait() == -9
    async with open_gateway(["serve"], environment=settings, log=tmp_path / "log") as gateway:
        await desk.sql("update webhook_delivery set available_at = now()")
        with trio.fail_after(30):
            while await rows(desk) != [("d1", "dispatched", 1)]:
                await trio.sleep(0.1)
        answer = (await post(gateway, hook, "d1")).json()
        assert answer["status"] == "duplicate"
        assert answer["run_id"]
    assert await rows(desk) == [("d1", "dispatched", 1)]
    assert await desk.sql("select count(*) from autopilot_run") == [(1,)]


async def test_connections_cut_under_load_keep_every_promise(
    pool: Pool, database: str, autopilots: Autopilots, tmp_path: Path
) -> None:
    """All connections of the daemon are ended again and again: every 2xx has its row, and no delivery two runs."""
    desk = open_desk(pool, autopilots.world)
    hook = await desk.add_hook(provider="github")
    promised: set[str] = set()
    statuses: list[int] = []
    over = False

    async def send(gateway: GatewayProcess) -> None:
        """As a provider does: until it is taken, the same delivery again."""
        while not over:
            name = uuid4().hex
            for _ in range(50):
                response = await post(gateway, hook, name)
                statuses.append(response.status_code)
                if response.status_code == 200:
                    promised.add(name)
                    break
                await trio.sleep(0.05)

    settings = environment(database, tmp_path, generate_key())
    async with (
        open_gateway(["serve"], environment=settings, log=tmp_path / "log") as gateway,
        trio.open_nursery() as all_of,
    ):
        for _ in range(8):
            all_of.start_soon(send, gateway)
        for _ in range(5):
            await trio.sleep(0.5)
            await trio.to_thread.run_sync(cut, database)
        await trio.sleep(0.5)
        over = True
    assert len(promised) > 20
    await desk.sql("update webhook_delivery set available_at = now()")
    await desk.intake.finish_stale()
    found = await rows(desk)
    settled = {name: (status, runs) for name, status, runs in found if status != "failed"}
    assert promised <= settled.keys()
    assert {settled[name] for name in promised} == {("dispatched", 1)}
    assert all(runs <= 1 for _, _, runs in found)
    assert set(statuses) <= {200, 500}


def cut(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
