"""Control calls to list, drop and freeze connections, and to send them bytes that are no event."""

from __future__ import annotations

from typing import Any

import trio

from gateway.simulator.connections import SocketConnection
from gateway.simulator.control.calls import LISTED_MAX, Body, Calls, read, seconds, unbase64
from gateway.simulator.exchange import Request
from gateway.simulator.simulator import Simulator

RAW_BYTES_MAX = 64 * 1024 * 1024


class RawMessage(Body):
    """One WebSocket message for `target`: a connection, or every live connection of an app.

    It holds the given bytes, or `size` zero bytes.
    """

    target: str
    base64: str = ""
    size: int = 0
    text: bool = False


class DropLink(Body):
    how: str = "close"
    code: int = 1000


def calls(simulator: Simulator) -> Calls:
    links = Links(simulator)
    return [
        ("GET", "connections", links.list_connections),
        ("POST", "connections/{target}/drop", links.drop),
        ("POST", "connections/{target}/freeze", links.freeze),
        ("POST", "connections/{target}/thaw", links.thaw),
        ("POST", "raw-messages", links.push_raw),
    ]


class Links:
    """Has one method for each call."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._platform = simulator.platform

    async def list_connections(self, request: Request) -> object:
        """List open and closed connections, and the most that each app ever had live at the same time.

        With `app` and `live_count` it waits up to `wait_seconds` until the app has exactly so many live ones.
        """
        app_id = request.argument("app")
        if request.argument("live_count"):
            with trio.move_on_after(seconds(request.argument("wait_seconds", "0"))):
                await self._simulator.wait_connected(self._platform.app(app_id), int(request.argument("live_count")))
        history = self._simulator.connection_log.history(app_id)[-LISTED_MAX:]
        return {
            "connections": [_connection(one) for one in history],
            "most_live": self._simulator.connection_log.most_live,
        }

    async def drop(self, request: Request) -> object:
        drop = read(request, DropLink)
        targets = self._targets(request.params["target"])
        for connection in targets:
            connection.drop(drop.how, drop.code)
        return [_connection(connection) for connection in targets]

    async def freeze(self, request: Request) -> object:
        targets = self._targets(request.params["target"])
        for connection in targets:
            connection.valve.freeze()
        return [_connection(connection) for connection in targets]

    async def thaw(self, request: Request) -> object:
        targets = self._targets(request.params["target"])
        for connection in targets:
            connection.valve.thaw()
        return [_connection(connection) for connection in targets]

    async def push_raw(self, request: Request) -> object:
        raw = read(request, RawMessage)
        if not 0 <= raw.size <= RAW_BYTES_MAX:
            raise ValueError(f"size is {raw.size}, at most {RAW_BYTES_MAX} bytes are sent")
        data = unbase64(raw.base64) or bytes(raw.size)
        targets = self._targets(raw.target)
        return {"queued": sum(self._simulator.push_raw(one, data, text=raw.text) for one in targets)}

    def _targets(self, handle: str) -> list[SocketConnection]:
        if handle.startswith("conn-"):
            return [self._simulator.connection_log.get(handle)]
        return self._simulator.connections(self._platform.app(handle))


def _connection(connection: SocketConnection) -> dict[str, Any]:
    return {
        "connection_id": connection.connection_id,
        "app_id": connection.app_id,
        "device_id": connection.device_id,
        "user_agent": connection.user_agent,
        "opened_at": connection.opened_at,
        "closed_at": connection.closed_at,
        "live": connection.live,
        "frozen": connection.valve.frozen,
        "closing": connection.closing,
        "frames_in": connection.frames_in,
        "pings": connection.pings,
        "last_frame_at": connection.last_frame_at,
    }
