"""The parts of the platform that its API calls act on, and helpers that the calls share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.simulator.clock import SimulatorClock
from gateway.simulator.connections import SocketConnections
from gateway.simulator.exchange import Answer, Refusal, Request
from gateway.simulator.limits import SimLimits
from gateway.simulator.messages import BAD_FIELD, NOT_IN_CHAT, Message, MessageStore
from gateway.simulator.platform import App, SimPlatform
from gateway.simulator.resources import ResourceStore
from gateway.simulator.scans import Scans


@dataclass(slots=True)
class World:
    """The parts of the platform that the API calls act on."""

    platform: SimPlatform
    messages: MessageStore
    resources: ResourceStore
    scans: Scans
    connections: SocketConnections
    limits: SimLimits
    clock: SimulatorClock
    ws_url: str
    client_config: dict[str, Any]
    heard: Callable[[App, Message], None]
    """Called for each new message of a bot: other bots in the chat may receive it."""
    ws_urls: dict[str, str] = field(default_factory=dict)
    """The URL for long connections of each region that does not use `ws_url`."""

    def knows(self, app: App | None, request: Request) -> bool:
        """True if the cloud that was called has this app."""
        return app is not None and (app.region == request.region or not self.scans.regions_apart)


AppCall = Callable[[World, App, Request], dict[str, Any] | Answer]
"""A call in the name of an app. Returns the document of the answer, or the whole answer. Raises Refusal."""


def ok(data: dict[str, Any]) -> dict[str, Any]:
    """Return the document of a successful answer with its data."""
    return {"code": 0, "msg": "success", "data": data}


def number(request: Request, name: str, default: int) -> int:
    text = request.argument(name) or str(default)
    if not text.isdigit():
        raise Refusal(BAD_FIELD, f"field validation failed: {name} is not a number")
    return int(text)


def require_member(world: World, app: App, chat_id: str) -> None:
    if app.app_id not in world.platform.chats[chat_id].app_ids:
        raise Refusal(NOT_IN_CHAT, "Bot/User can NOT be out of the chat.")
