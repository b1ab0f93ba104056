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
from support.toy_platform import TOY, full_toy, toy
from support.toy_town import Town
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
    """A bot of the town and its installation."""

    world: World
    town: Town
    handle: str
    agent: Agent
    id: UUID

    async def bind(self, person: str, *, email: str = "ada@example.invalid") -> None:
        await BindingService(PostgresBindingStore(self.world.pool)).bind(self.id, person, email)

    async def configure(self, **changes: Any) -> None:
        await self.world.rows(
            "update channel_installation set config = config || %s::jsonb where id = %s", json.dumps(changes), self.id
        )

    async def rotate(self, door_key: str) -> None:
        self.town.doors[self.handle] = door_key
        await self.configure(door_key_encrypted=sealed(self.world, door_key, self.id))

    async def count(self, table: str, where: str = "true") -> Any:
        return await self.world.value(f"select count(*) from {table} where installation_id = %s and {where}", self.id)


def sealed(world: World, secret: str, owner: UUID) -> str:
    return base64.b64encode(KeyRing.parse(world.key).seal(secret.encode(), owner=owner)).decode()


async def add_toy_bot(
    world: World, town: Town, *, slug: str = TOY, handle: str = "@ant", door_key: str = "fake"
) -> ToyBot:
    """A bot with an agent. Without `door_key` its door is open, and its config holds no secret."""
    agent = await world.add_agent(handle)
    installation_id = new_id()
    secret = {"door_key_encrypted": sealed(world, door_key, installation_id)} if door_key else {}
    config = {"app_id": handle, "gate": "north", **secret}
    draft = InstallationDraft(installation_id, world.workspace.id, agent.id, slug, world.owner.id, config)
    assert await PostgresInstallationStore(world.pool).save(draft) is not None
    town.doors[handle] = door_key
    return ToyBot(world, town, handle, agent, installation_id)


@asynccontextmanager
async def inner_daemon(
    world: World, town: Town, *, platforms: Sequence[Platform] | None = None, **settings: Any
) -> AsyncIterator[InnerDaemon]:
    """A daemon for the block, with every platform there is and the toys."""
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
        platforms=[*PLATFORMS, toy(town), full_toy(town)] if platforms is None else platforms,
    )
    async with trio.open_nursery() as nursery:
        ready: Ready = await nursery.start(serve)
        yield InnerDaemon(ready, stop)
        nursery.cancel_scope.cancel()
