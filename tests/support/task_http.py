"""The API of runtimes and tasks on a real socket, over a tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from gateway.http.app import Services, create_app
from gateway.http.server import serve_http
from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics
from gateway.work.people.directory import Principal, UserPrincipal
from gateway.work.tasks.attachments import Attachments
from gateway.work.tasks.tasks import TaskService
from support.tenant import Tenant

TOKEN = "gwr_not-a-real-token"
USER_TOKEN = "gwu_not-a-real-token"


@dataclass
class TaskServer:
    """`revoked`: the token is not accepted any more. `authentications` counts how often a token was looked up."""

    tenant: Tenant
    service: TaskService
    url: str = ""
    revoked: bool = False
    authentications: int = 0
    stop: trio.Event = field(default_factory=trio.Event)

    async def authenticate(self, token: str) -> Principal | None:
        self.authentications += 1
        if self.revoked:
            return None
        known: dict[str, Principal] = {TOKEN: self.tenant.runtime, USER_TOKEN: UserPrincipal(self.tenant.user_id)}
        return known.get(token)


@asynccontextmanager
async def serving_tasks(
    tenant: Tenant, bind: str = "127.0.0.1:0", *, attachments: Attachments | None = None
) -> AsyncIterator[TaskServer]:
    server = TaskServer(tenant, tenant.service)
    services = Services(server.authenticate, server.service, Readiness(), Metrics(), attachments=attachments)
    app = create_app(services)
    async with trio.open_nursery() as nursery:
        server.url = await nursery.start(partial(serve_http, app, bind, stop=server.stop, graceful_seconds=2))
        try:
            yield server
        finally:
            server.service.drain()
            server.stop.set()
