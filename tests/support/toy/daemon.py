"""Daemons in this process that serve Lark and the toys side by side, on a real database."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import trio

from gateway.channel.installation import InstallationDraft
from gateway.config import load_settings
from gateway.daemon.intake import Ready
from gateway.daemon.platforms import PLATFORMS, Platform
from gateway.daemon.run import run_daemon
from gateway.ids import new_id
from gateway.keyring import KeyRing
from gateway.observe.notify import Notifier
from gateway.postgres.binding_store import PostgresBindingStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.work.people.bindings import BindingService
from gateway.work.people.directory import Agent
from support.processes import free_address
from support.toy.kinds import FULL, PLAIN, ToyKind
from support.toy.platform import ToyPlatform
from support.world import LEASE_TTL_SECONDS, World


@dataclass(eq=False)
class InnerDaemon:
    """A daemon that is a task. `stop` drains it; leaving its block cuts it off."""

    ready: Ready
    stop: trio.Event

    @property
    def url(self) -> str:
        return self.ready.http


@dataclass
class ToyBot:
    """A bot of a toy platform and its installation."""

    world: World
    platform: ToyPlatform
    handle: str
    agent: Agent
    id: UUID

    async def bind(self, person: str, *, email: str = "ada@example.invalid") -> None:
        await BindingService(PostgresBindingStore(self.world.pool)).bind(self.id, person, email)

    async def configure(self, **changes: Any) -> None:
        await self.world.rows(
            "update channel_installation set config = config || %s::jsonb where id = %s", json.dumps(changes), self.id
        )

    async def rotate(self, secret: str) -> None:
        self.platform.secrets[self.handle] = secret
        await self.configure(secret_encrypted=sealed(self.world, secret, self.id))

    async def count(self, table: str, where: str = "true") -> Any:
        return await self.world.value(f"select count(*) from {table} where installation_id = %s and {where}", self.id)


def sealed(world: World, secret: str, owner: UUID) -> str:
    return base64.b64encode(KeyRing.parse(world.key).seal(secret.encode(), owner=owner)).decode()


async def add_toy_bot(
    world: World, platform: ToyPlatform, kind: ToyKind = PLAIN, *, handle: str = "@ant", secret: str = "fake"
) -> ToyBot:
    """A bot with an agent. Without `secret` the platform asks for none, and the config holds none."""
    agent = await world.add_agent(handle)
    installation_id = new_id()
    own = {"secret_encrypted": sealed(world, secret, installation_id)} if secret else {}
    config = {"app_id": handle, "gate": "north", **own}
    draft = InstallationDraft(installation_id, world.workspace.id, agent.id, kind.slug, world.owner.id, config)
    assert await PostgresInstallationStore(world.pool).save(draft) is not None
    platform.secrets[handle] = secret
    return ToyBot(world, platform, handle, agent, installation_id)


@asynccontextmanager
async def inner_daemon(
    world: World,
    platform: ToyPlatform,
    *,
    kinds: Sequence[ToyKind] = (PLAIN, FULL),
    besides: Sequence[Platform] = PLATFORMS,
    **settings: Any,
) -> AsyncIterator[InnerDaemon]:
    """A daemon for the block, which serves these kinds of toys and the platforms `besides`."""
    address = free_address()
    flags = {
        "database_url": world.conninfo,
        "secret_key": world.key,
        "state_dir": str(world.logs / "state"),
        "http.bind": address,
        "http.public_url": f"http://{address}",
        "lark.open_base_url": world.sim.base_url,
        "hub.batch_window_seconds": 0,
        "hub.lease_ttl_seconds": LEASE_TTL_SECONDS,
        **settings,
    }
    stop = trio.Event()
    serve = partial(
        run_daemon,
        load_settings(None, {key: value for key, value in flags.items() if value is not None}),
        stop=stop,
        notifier=Notifier({}),
        platforms=[*besides, *(kind.on(platform) for kind in kinds)],
    )
    async with trio.open_nursery() as nursery:
        ready: Ready = await nursery.start(serve)
        yield InnerDaemon(ready, stop)
        nursery.cancel_scope.cancel()
