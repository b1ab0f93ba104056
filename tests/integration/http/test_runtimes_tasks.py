"""The API that agents' runtimes use, over HTTP and a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
import trio

from gateway.postgres.pool import Pool
from support.task_http import TOKEN, USER_TOKEN, TaskServer, serving_tasks
from support.tenant import Tenant, hearing_events, open_tenant, ringing

RUNNING = {"id": str(UUID(int=9)), "attempt": 1}


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return await open_tenant(pool)


@pytest.fixture
async def server(tenant: Tenant) -> AsyncIterator[TaskServer]:
    async with serving_tasks(tenant) as server:
        yield server


@pytest.fixture
async def client(server: TaskServer) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx2.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=30) as client:
        yield client


async def claim(client: httpx2.AsyncClient, tenant: Tenant, wait: str = "0") -> Any:
    answer = await client.post(f"/api/runtimes/{tenant.runtime_id}/tasks/claim", params={"wait_seconds": wait})
    assert answer.status_code == 200, answer.text
    return answer.json()["task"]


async def test_task_from_claim_to_answer_has_the_shape_of_the_contract(
    tenant: Tenant, client: httpx2.AsyncClient
) -> None:
    session = await tenant.add_session()
    await tenant.say(session, "hello")
    task = await claim(client, tenant)
    sent_at = datetime.fromisoformat(task["messages"][0].pop("sent_at"))
    deadline = datetime.fromisoformat(task.pop("deadline"))
    assert sent_at.utcoffset() is not None
    assert task["messages"][0].pop("age_seconds") in range(10)
    assert 8990 < (deadline - sent_at).total_seconds() < 9010
    assert task == {
        "id": task["id"],
        "kind": "chat",
        "agent": {"id": str(tenant.agent_id), "name": "agent"},
        "workspace_id": str(tenant.workspace_id),
        "chat_session_id": str(session.id),
        "context_generation": 0,
        "issue": None,
        "prompt": "hello",
        "messages": [{"role": "user", "author": "Ann", "text": "hello", "attachments": []}],
        "attempt": 1,
    }
    path = f"/api/tasks/{task['id']}"
    first = {"attempt": 1}
    assert (await client.post(f"{path}/start", json=first)).json() == {"id": task["id"], "status": "running"}
    assert (await client.post(f"{path}/progress", json={**first, "text": "half way"})).status_code == 200
    assert (await client.get(path)).json()["progress"] == "half way"
    for _ in range(2):
        answer = await client.post(f"{path}/complete", json={**first, "output": "hi"})
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert (await client.post(f"{path}/fail", json={**first, "error": "late"})).json()["status"] == "completed"
    view = (await client.get(path)).json()
    assert (view["status"], view["result"], view["attempt"]) == ("completed", {"output": "hi"}, 1)
    assert await tenant.answers(session) == ["hi"]
    assert await claim(client, tenant) is None


async def test_claim_with_a_wait_is_answered_when_a_message_comes(
    tenant: Tenant, client: httpx2.AsyncClient, database: str
) -> None:
    session = await tenant.add_session()
    got: list[Any] = []

    async def poll() -> None:
        got.append(await claim(client, tenant, "30"))

    with trio.fail_after(10):
        async with ringing(tenant, database), trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await tenant.say(session, "hello")
            await tenant.sql("select pg_notify('gateway_task', %(id)s)", id=str(tenant.runtime_id))
    assert got[0]["prompt"] == "hello"


async def test_claim_of_a_client_that_went_away_takes_no_task(
    tenant: Tenant, client: httpx2.AsyncClient, database: str
) -> None:
    session = await tenant.add_session()
    async with ringing(tenant, database):
        with trio.move_on_after(0.2):
            await claim(client, tenant, "30")
        for _ in range(3):
            await tenant.say(session, "hello")
            await tenant.sql("select pg_notify('gateway_task', %(id)s)", id=str(tenant.runtime_id))
        with trio.fail_after(10):
            task = await claim(client, tenant, "10")
    assert task["prompt"].count("hello") == 3


async def test_shutdown_ends_long_polls_at_once(tenant: Tenant) -> None:
    with trio.fail_after(10):
        async with serving_tasks(tenant) as server, httpx2.AsyncClient(trust_env=False, timeout=30) as client:
            client.headers["Authorization"] = f"Bearer {TOKEN}"
            client.base_url = httpx2.URL(server.url)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(claim, client, tenant, "30")
                await trio.sleep(0.1)
                server.service.drain()


async def test_register_tells_who_watches_the_workspace(
    tenant: Tenant, client: httpx2.AsyncClient, database: str
) -> None:
    async with hearing_events(database) as events:
        assert (await client.post("/api/runtimes/register", json={"kind": "cli"})).status_code == 200
    ids = {"workspace_id": str(tenant.workspace_id), "runtime_id": str(tenant.runtime_id)}
    assert events == [{"event": "daemon:register", **ids}]


async def test_register_and_heartbeat(tenant: Tenant, client: httpx2.AsyncClient) -> None:
    body = {"workspace_id": str(tenant.workspace_id), "name": "laptop", "kind": "cli", "version": "1.2"}
    view = (await client.post("/api/runtimes/register", json=body)).json()
    assert view == {
        "id": str(tenant.runtime_id),
        **body,
        "heartbeat_seconds": 15,
    }
    assert (await client.post("/api/runtimes/register", json={"version": "2"})).json()["name"] == "laptop"
    stranger = {"id": str(uuid4()), "attempt": 1}
    answer = await client.post(f"/api/runtimes/{tenant.runtime_id}/heartbeat", json={"tasks": [stranger]})
    assert answer.json() == {"status": "ok", "stop": [stranger]}
    assert (await client.post(f"/api/runtimes/{tenant.runtime_id}/heartbeat")).json() == {"status": "ok", "stop": []}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", "/api/runtimes/register", {"workspace_id": str(UUID(int=9)), "name": "x"}, 404, None),
        ("POST", "/api/runtimes/register", {"workspace_id": "x", "name": "x"}, 400, "workspace_id"),
        ("POST", "/api/runtimes/register", {"name": " "}, 400, "name"),
        ("POST", "/api/runtimes/register", {"name": "x" * 201}, 400, "name"),
        ("POST", "/api/runtimes/register", {"name": "x\x1b[2J"}, 400, "name"),
        ("POST", "/api/runtimes/register", {"kind": "x\x00"}, 400, "kind"),
        ("POST", "/api/runtimes/register", {"version": "1\n2"}, 400, "version"),
        ("POST", f"/api/runtimes/{UUID(int=9)}/heartbeat", {}, 404, None),
        ("POST", "/api/runtimes/nonsense/heartbeat", {}, 400, "runtime_id"),
        ("POST", f"/api/runtimes/{UUID(int=9)}/tasks/claim", {}, 404, None),
        ("POST", f"/api/runtimes/{UUID(int=9)}/tasks/claim?wait_seconds=61", {}, 400, "wait_seconds"),
        ("POST", f"/api/runtimes/{UUID(int=9)}/tasks/claim?wait_seconds=-1", {}, 400, "wait_seconds"),
        ("POST", f"/api/runtimes/{UUID(int=9)}/tasks/claim?wait_seconds=nan", {}, 400, "wait_seconds"),
        ("POST", f"/api/runtimes/{UUID(int=9)}/tasks/claim?wait_seconds=soon", {}, 400, "wait_seconds"),
        ("GET", f"/api/tasks/{UUID(int=9)}", None, 404, None),
        ("GET", "/api/tasks/nonsense", None, 400, "task_id"),
        ("GET", f"/api/tasks/{UUID(int=0)}", None, 400, "task_id"),
        ("POST", "/api/runtimes/register", {"instance": " "}, 400, "instance"),
        ("POST", "/api/runtimes/register", {"instance": "x", "tasks": [{"id": "x", "attempt": 1}]}, 400, "tasks[0].id"),
        ("POST", f"/api/runtimes/{UUID(int=9)}/heartbeat", {"tasks": [RUNNING] * 1001}, 400, "tasks"),
        ("POST", f"/api/runtimes/{UUID(int=9)}/heartbeat", {"tasks": [RUNNING] * 1000}, 404, None),
        ("POST", f"/api/runtimes/{UUID(int=9)}/heartbeat", {"tasks": [str(UUID(int=9))]}, 400, "tasks[0]"),
        (
            "POST",
            f"/api/runtimes/{UUID(int=9)}/heartbeat",
            {"tasks": [{"id": str(UUID(int=9))}]},
            400,
            "tasks[0].attempt",
        ),
        ("POST", f"/api/runtimes/{UUID(int=9)}/tasks/claim", {"instance": "x\n"}, 404, None),
        ("POST", f"/api/runtimes/{UUID(int=9)}/tasks/claim", {"instance": "x\ny"}, 400, "instance"),
        ("POST", f"/api/tasks/{UUID(int=9)}/start", None, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/start", {"attempt": 1, "newer": True}, 404, None),
        ("POST", f"/api/tasks/{UUID(int=9)}/start", {"attempt": "1"}, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/start", {"attempt": True}, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/start", {"attempt": 1.5}, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/start", {"attempt": None}, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/start", {"attempt": 0}, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/start", {"attempt": -1}, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/start", {"attempt": 2**31}, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/start", {"attempt": 10**30}, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/progress", {"text": "x"}, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/progress", {"attempt": 1}, 400, "text"),
        ("POST", f"/api/tasks/{UUID(int=9)}/complete", {"output": "x"}, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/complete", {"attempt": 1}, 400, "output"),
        ("POST", f"/api/tasks/{UUID(int=9)}/complete", {"attempt": 1, "output": 5}, 400, "output"),
        ("POST", f"/api/tasks/{UUID(int=9)}/complete", {"attempt": 1, "output": "x"}, 404, None),
        ("POST", f"/api/tasks/{UUID(int=9)}/fail", {"error": "x"}, 400, "attempt"),
        ("POST", f"/api/tasks/{UUID(int=9)}/fail", {"attempt": 1}, 400, "error"),
        ("POST", f"/api/tasks/{UUID(int=9)}/fail", {"attempt": 1, "error": "x"}, 404, None),
    ],
)
async def test_bad_request_is_answered_with_what_is_wrong(
    client: httpx2.AsyncClient, method: str, path: str, body: Any, status: int, field: str | None
) -> None:
    answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
    assert answer.json()["code"]


async def test_attempt_that_is_over_is_a_conflict_that_says_where_the_task_is(
    tenant: Tenant, client: httpx2.AsyncClient
) -> None:
    session = await tenant.add_session()
    await tenant.say(session, "hello")
    task = await claim(client, tenant)
    path, old = f"/api/tasks/{task['id']}", {"attempt": task["attempt"]}
    await client.post(f"{path}/start", json=old)
    await tenant.silence_runtime()
    assert await tenant.service.return_lost() == 1
    assert (await claim(client, tenant))["attempt"] == 2
    for action, fields in (
        ("start", {}), ("progress", {"text": "x"}), ("complete", {"output": "late"}), ("fail", {"error": "late"}),
    ):  # fmt: skip
        answer = await client.post(f"{path}/{action}", json={**old, **fields})
        assert (answer.status_code, answer.json()["code"], answer.json()["attempt"]) == (409, "attempt_over", 2)
        assert answer.json()["task_status"] == "dispatched"
    both = [{"id": task["id"], "attempt": number} for number in (1, 2)]
    answer = await client.post(f"/api/runtimes/{tenant.runtime_id}/heartbeat", json={"tasks": both})
    assert answer.json() == {"status": "ok", "stop": both[:1]}
    new = {"attempt": 2}
    assert (await client.post(f"{path}/start", json=new)).status_code == 200
    done = {**new, "output": "", "stderr_tail": "no key", "of a newer worker": True}
    assert (await client.post(f"{path}/complete", json=done)).status_code == 200
    view = (await client.get(path)).json()
    assert (view["status"], view["attempt"], view["stderr_tail"]) == ("completed", 2, "no key")


async def test_instance_that_registers_gets_back_what_it_had(tenant: Tenant, client: httpx2.AsyncClient) -> None:
    path = f"/api/runtimes/{tenant.runtime_id}/tasks/claim"
    tasks = []
    for instance in ("a", "a", "b"):
        await tenant.say(await tenant.add_session(), "hello")
        tasks.append((await client.post(path, json={"instance": instance})).json()["task"])
    kept = [{"id": tasks[0]["id"], "attempt": 1}]
    assert (await client.post("/api/runtimes/register", json={"instance": "a", "tasks": kept})).status_code == 200
    states = [(await client.get(f"/api/tasks/{task['id']}")).json()["status"] for task in tasks]
    assert states == ["dispatched", "queued", "dispatched"]
    again = (await client.post(path, json={"instance": "a"})).json()["task"]
    assert (again["id"], again["attempt"]) == (tasks[1]["id"], 2)


async def test_wrong_status_is_a_conflict_that_names_it(tenant: Tenant, client: httpx2.AsyncClient) -> None:
    task_id = await tenant.say(await tenant.add_session(), "hello", window=60)
    answer = await client.post(f"/api/tasks/{task_id}/complete", json={"attempt": 1, "output": "x"})
    assert (answer.status_code, answer.json()["task_status"]) == (409, "queued")


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("gwr_unknown", 401), (USER_TOKEN, 403)])
async def test_wrong_identity_is_turned_away(
    tenant: Tenant, client: httpx2.AsyncClient, token: str | None, status: int
) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    del client.headers["Authorization"]
    for path in (
        "/api/runtimes/register",
        f"/api/runtimes/{tenant.runtime_id}/tasks/claim",
        f"/api/tasks/{uuid4()}/start",
    ):
        assert (await client.post(path, headers=headers, json={"name": "x"})).status_code == status


@pytest.mark.parametrize(("action", "field"), [("complete", "output"), ("fail", "error"), ("progress", "text")])
async def test_report_needs_its_words_and_may_bring_what_a_newer_worker_adds(
    client: httpx2.AsyncClient, action: str, field: str
) -> None:
    path = f"/api/tasks/{UUID(int=9)}/{action}?trace=1"
    answer = await client.post(path, json={"attempt": 1, "result": "x"})
    assert (answer.status_code, answer.json().get("field")) == (400, field)
    answer = await client.post(path, json={"attempt": 1, field: "x", "usage": {"tokens": 5}})
    assert answer.status_code == 404


async def test_claim_that_waits_with_a_token_gets_no_task_once_it_is_revoked(
    tenant: Tenant, server: TaskServer, client: httpx2.AsyncClient
) -> None:
    await tenant.say(await tenant.add_session(), "hello", window=0.5)
    looks = server.authentications
    got: list[Any] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait_for_work() -> None:
                got.append(await claim(client, tenant, wait="30"))

            while server.authentications == looks:
                await trio.sleep(0.01)
            server.revoked = True
    assert got == [None]
    assert [task["status"] for task in await tenant.tasks()] == ["queued"]
