"""Webhooks and crashes: kill -9 at every named point, and a database that restarts under load."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
import trio

from gateway.keyring import generate_key
from gateway.postgres.embedded import open_embedded
from gateway.postgres.migrate import migrate_up
from gateway.postgres.pool import Pool, open_pool
from support.autopilots import Autopilots, open_autopilots
from support.processes import GatewayProcess, open_gateway
from support.webhooks import Hook, HookServer, open_hook_server, signed

POINTS = ["webhooks.recorded", "webhooks.dispatched"]
LONG_WAY = ["webhooks.recorded", "autopilot.drafted", "autopilot.issue_filed", "autopilot.dispatching"]
BODY = b'{"action":"opened"}'


@pytest.fixture
async def autopilots(pool: Pool) -> Autopilots:
    autopilots = await open_autopilots(pool)
    await autopilots.tenant.sql("update agent_runtime set last_heartbeat_at = now() + interval '1 hour'")
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


async def rows(hooks: HookServer) -> list[tuple[Any, ...]]:
    return await hooks.sql(
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
    hooks = open_hook_server(pool, autopilots.tenant)
    hook = await hooks.add_hook(mode=mode, provider="github")
    settings = environment(database, tmp_path, key)
    async with open_gateway(["serve"], environment=settings, log=tmp_path / "log", crash_at=(point, 1)) as gateway:
        with pytest.raises(httpx2.HTTPError):
            await post(gateway, hook, "d1")
        assert await gateway.wait() == -9
    async with open_gateway(["serve"], environment=settings, log=tmp_path / "log") as gateway:
        await hooks.sql("update webhook_delivery set available_at = now()")
        with trio.fail_after(30):
            while await rows(hooks) != [("d1", "dispatched", 1)]:
                await trio.sleep(0.1)
        answer = (await post(gateway, hook, "d1")).json()
        assert answer["status"] == "duplicate"
        assert answer["run_id"]
    assert await rows(hooks) == [("d1", "dispatched", 1)]
    assert await hooks.sql("select count(*) from autopilot_run") == [(1,)]


Disturb = Callable[[], Awaitable[None]]


async def hold_promises(hooks: HookServer, settings: dict[str, str], log: Path, disturb: Disturb) -> None:
    """Senders deliver while the database is disturbed: every 2xx has its row, and no delivery two runs."""
    hook = await hooks.add_hook(provider="github")
    promised: set[str] = set()
    statuses: set[int] = set()
    over = False

    async def send(gateway: GatewayProcess) -> None:
        """As a provider does: until it is taken, the same delivery again."""
        while not over:
            name = uuid4().hex
            for _ in range(100):
                response = await post(gateway, hook, name)
                statuses.add(response.status_code)
                if response.status_code == 200:
                    promised.add(name)
                    break
                await trio.sleep(0.05)

    async with open_gateway(["serve"], environment=settings, log=log) as gateway, trio.open_nursery() as senders:
        for _ in range(8):
            senders.start_soon(send, gateway)
        await trio.sleep(0.5)
        await disturb()
        await trio.sleep(0.5)
        over = True
    assert len(promised) > 20
    await hooks.sql("update webhook_delivery set available_at = now()")
    await hooks.intake.finish_stale()
    found = await rows(hooks)
    settled = {name: (status, runs) for name, status, runs in found if status != "failed"}
    assert {settled.get(name) for name in promised} == {("dispatched", 1)}
    assert all(runs <= 1 for _, _, runs in found)
    assert statuses <= {200, 500}


async def test_connections_cut_under_load_keep_every_promise(
    pool: Pool, database: str, autopilots: Autopilots, tmp_path: Path
) -> None:
    async def cut_often() -> None:
        for _ in range(5):
            await trio.to_thread.run_sync(cut, database)
            await trio.sleep(0.5)

    hooks = open_hook_server(pool, autopilots.tenant)
    await hold_promises(hooks, environment(database, tmp_path, generate_key()), tmp_path / "log", cut_often)


def cut(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )


async def test_database_restarted_under_load_keeps_every_promise(tmp_path: Path) -> None:
    stop, stopped = trio.Event(), trio.Event()

    async def serve(state: str, *, task_status: trio.TaskStatus[str]) -> None:
        async with open_embedded(state, durable=False) as conninfo:
            await migrate_up(conninfo)
            task_status.started(conninfo)
            await stop.wait()
        stopped.set()
        async with open_embedded(state, durable=False):
            await trio.sleep_forever()

    async def restart() -> None:
        stop.set()
        await stopped.wait()
        await trio.sleep(2)

    with tempfile.TemporaryDirectory(prefix="gateway-test-", ignore_cleanup_errors=True) as state:
        await trio.Path(state).chmod(0o711)
        async with trio.open_nursery() as nursery:
            conninfo: str = await nursery.start(serve, state)
            async with open_pool(conninfo, size_max=10) as pool:
                autopilots = await open_autopilots(pool)
                await autopilots.tenant.sql("update agent_runtime set last_heartbeat_at = now() + interval '1 hour'")
                hooks = open_hook_server(pool, autopilots.tenant)
                await hold_promises(hooks, environment(conninfo, tmp_path, generate_key()), tmp_path / "log", restart)
            nursery.cancel_scope.cancel()
