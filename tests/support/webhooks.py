"""The entrance of webhooks over Postgres, in process, and triggers as their senders know them."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
import trio
from quart.typing import TestClientProtocol

from gateway.batching import Batcher, run_batches
from gateway.concurrency import Signal, Topics
from gateway.http.app import Hooks, JsonApp, Services, create_app
from gateway.http.ingress.webhooks import Ingress
from gateway.ids import new_token
from gateway.keyring import KeyRing, generate_key
from gateway.observe.health import Readiness
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.pool import Pool
from gateway.postgres.task_store import PostgresTaskStore
from gateway.postgres.trigger_store import PostgresTriggerStore
from gateway.postgres.webhook_store import PostgresWebhookStore
from gateway.webhooks.delivery import Intake
from gateway.webhooks.known import KnownTokens
from gateway.webhooks.limited import LimitedRequests
from gateway.webhooks.limits import Gates
from gateway.webhooks.log import DeliveryLog
from gateway.webhooks.replay import BulkReplays, Replayer
from gateway.webhooks.triggers import TriggerService
from gateway.webhooks.turns import Turns
from gateway.work.autopilots.dispatch import Dispatcher
from gateway.work.people.directory import Directory
from gateway.work.tasks.tasks import TaskService
from support.autopilots import Autopilots
from support.people import Office, open_office
from support.recording import Recording
from support.rows import query
from support.tenant import Tenant

SECRET = "not-a-real-secret-1"


@dataclass
class Hook:
    """A trigger and the address it listens at."""

    autopilot_id: UUID
    trigger_id: UUID
    token: str


@dataclass
class HookServer:
    """One replica's entrance."""

    pool: Pool
    autopilots: Autopilots
    app: JsonApp
    intake: Intake
    ring: KeyRing
    recorder: Recording
    store: PostgresWebhookStore
    gates: Gates
    turns: Turns
    known: KnownTokens
    limited: LimitedRequests

    @property
    def client(self) -> TestClientProtocol:
        return self.app.test_client()

    async def send(self, token: str, body: bytes | object = b"{}", **headers: str) -> tuple[int, dict[str, Any]]:
        response = await self.post(token, body, **headers)
        return response.status_code, msgspec.json.decode(await response.get_data())

    async def post(self, token: str, body: bytes | object = b"{}", **headers: str) -> Any:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"/api/webhooks/autopilots/{token}", data=data, headers=named)

    async def add_hook(self, *, mode: str = "run_only", secret: str | None = None, **columns: Any) -> Hook:
        autopilot_id = await self.autopilots.add(execution_mode=mode)
        token = new_token("awt_")
        trigger_id = await self.autopilots.add_trigger(autopilot_id, webhook_token=token, **columns)
        hook = Hook(autopilot_id, trigger_id, token)
        if secret is not None:
            await self.add_secret(hook, secret)
        return hook

    async def add_secret(self, hook: Hook, secret: str, ring: KeyRing | None = None) -> UUID:
        secret_id = uuid4()
        await self.sql(
            "insert into webhook_signing_secret (id, workspace_id, trigger_id, secret_encrypted, last_four)"
            " select %s, workspace_id, id, %s, %s from autopilot_trigger where id = %s",
            secret_id,
            (ring or self.ring).seal_text(secret, owner=secret_id),
            secret[-4:],
            hook.trigger_id,
        )
        return secret_id

    async def deliveries(self) -> list[dict[str, Any]]:
        return await self.autopilots.tenant.sql("select * from webhook_delivery order by created_at, id")

    async def runs(self) -> list[dict[str, Any]]:
        return await self.autopilots.runs()

    async def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await query(self.pool, statement, *values)


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {"X_Hub_Signature_256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


def open_hook_server(
    pool: Pool,
    tenant: Tenant,
    *,
    dispatcher: Dispatcher | None = None,
    ring: KeyRing | None = None,
    has_ring: bool = True,
    gates: Gates | None = None,
    per_token: int = 0,
    per_address: int = 0,
    nursery: trio.Nursery | None = None,
    **settings: Any,
) -> HookServer:
    """With a nursery, requests that are outstanding together share statements, as in the daemon."""
    autopilots, recorder = Autopilots(tenant, pool), Recording()
    ring = ring or KeyRing.parse(generate_key())
    store = PostgresWebhookStore(pool)
    together: dict[str, Any] = {}
    if nursery is not None:
        recording = Batcher("deliveries", store.record)
        beginning = Batcher("runs", autopilots.dispatcher.dispatch_together)
        nursery.start_soon(run_batches, recording)
        nursery.start_soon(run_batches, beginning)
        together = {"record": recording.submit, "begin": beginning.submit}
    intake = Intake(
        store,
        dispatcher or autopilots.dispatcher,
        ring if has_ring else None,
        clock=lambda: datetime.now(UTC),
        recorder=recorder,
        **together,
    )
    gates = gates or Gates(per_token_per_minute=per_token, per_ip_per_minute=per_address)
    known = KnownTokens(store)
    limited = LimitedRequests(store, clock=lambda: datetime.now(UTC))
    ingress = Ingress(intake, gates, known, recorder, limited, **settings)
    directory = Directory(PostgresDirectoryStore(pool))
    tasks = TaskService(PostgresTaskStore(pool), Topics())
    app = create_app(Services(directory.authenticate, tasks, Readiness(), recorder, webhooks=ingress))
    turns = Turns(store, intake, gates)
    return HookServer(pool, autopilots, app, intake, ring, recorder, store, gates, turns, known, limited)


@dataclass
class HookOffice:
    """The routes for people and the entrance for senders, as one application."""

    office: Office
    store: PostgresWebhookStore
    intake: Intake
    replayer: Replayer
    wake: Signal
    ring: KeyRing | None


async def open_hook_office(
    pool: Pool, *, ring: KeyRing | None, public_url: str | None = None, **settings: Any
) -> HookOffice:
    office = await open_office(pool, public_url=public_url, **settings)
    runtime = uuid4()
    await office.sql(
        "insert into agent_runtime (id, workspace_id, name, last_heartbeat_at) values (%s, %s, 'machine', now())",
        runtime,
        office.place.workspace_id,
    )
    await office.sql("update agent set runtime_id = %s", runtime)
    workplace = office.people.workplace
    assert workplace is not None
    autopilots = Autopilots(Tenant(pool), pool)
    store, wake = PostgresWebhookStore(pool), Signal()
    intake = Intake(store, autopilots.dispatcher, ring, clock=lambda: datetime.now(UTC), recorder=office.metrics)
    replayer = Replayer(store, intake)
    triggers = TriggerService(
        PostgresTriggerStore(pool),
        workplace.autopilots,
        ring,
        clock=lambda: datetime.now(UTC),
        public_url=public_url,
    )
    hooks = Hooks(triggers, DeliveryLog(store), replayer, BulkReplays(store, wake))
    people = replace(office.people, workplace=replace(workplace, triggers=triggers.views, hooks=hooks))
    gates = Gates(per_token_per_minute=0, per_ip_per_minute=0)
    limited = LimitedRequests(store, clock=lambda: datetime.now(UTC))
    ingress = Ingress(intake, gates, KnownTokens(store), office.metrics, limited)
    tasks = TaskService(PostgresTaskStore(pool), Topics())
    services = Services(people.directory.authenticate, tasks, Readiness(), office.metrics, people, webhooks=ingress)
    office.app = create_app(services)
    return HookOffice(office, store, intake, replayer, wake, ring)
