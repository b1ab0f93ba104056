"""A Lark REST endpoint on loopback that answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
import trio

TOKEN_PATH = "/open-apis/auth/v3/tenant_access_token/internal"
BOT_PATH = "/open-apis/bot/v3/info"
ENDPOINT_PATH = "/callback/ws/endpoint"
SEND_PATH = "/open-apis/im/v1/messages"


@dataclass
class Call:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def bearer(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass
class Reply:
    """`raw` replaces the JSON of `fields`; `close` ends the connection instead of answering."""

    fields: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    close: bool = False

    @property
    def body(self) -> bytes:
        return json.dumps(self.fields).encode() if self.raw is None else self.raw


Answer = Callable[[Call], Awaitable[Reply]]


class FakePlatform:
    """Answers per path; without a scripted answer a path gets its usual one. Tokens are t-fake-1, t-fake-2, …"""

    def __init__(self) -> None:
        self.base_url = ""
        self.calls: list[Call] = []
        self.scripted: dict[str, list[Reply | Answer]] = {}
        self.usual: dict[str, Reply | Answer] = {
            BOT_PATH: Reply({"code": 0, "msg": "ok", "bot": {"open_id": "ou_bot", "app_name": "Ada"}}),
            SEND_PATH: self._take_message,
            ENDPOINT_PATH: Reply(
                {"code": 0, "data": {"URL": "ws://127.0.0.1:9/ws?ticket=fake-ticket&service_id=7", "ClientConfig": {}}}
            ),
        }
        self.token_lifetime = 7200
        self._tokens = 0

    def script(self, path: str, *replies: Reply | Answer) -> None:
        """The next answers of a path, in order; then the usual one again."""
        self.scripted.setdefault(path, []).extend(replies)

    def asked(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]

    async def answer(self, call: Call) -> Reply:
        self.calls.append(call)
        waiting = self.scripted.get(call.path)
        chosen = waiting.pop(0) if waiting else self.usual.get(call.path, self._unusual)
        return chosen if isinstance(chosen, Reply) else await chosen(call)

    async def _unusual(self, call: Call) -> Reply:
        if call.path == TOKEN_PATH:
            self._tokens += 1
            token = f"t-fake-{self._tokens}"
            return Reply({"code": 0, "msg": "ok", "tenant_access_token": token, "expire": self.token_lifetime})
        if call.path.endswith("/reply"):
            return await self._take_message(call)
        if call.path.startswith("/open-apis/contact/v3/users/"):
            return Reply({"code": 0, "data": {"user": {"union_id": "on_bot"}}})
        return Reply({"code": 404, "msg": "no such call"}, status=404)

    async def _take_message(self, _call: Call) -> Reply:
        return Reply({"code": 0, "msg": "success", "data": {"message_id": f"om_{len(self.calls)}"}})


@asynccontextmanager
async def serving_platform() -> AsyncIterator[FakePlatform]:
    """A FakePlatform that listens on a port of the kernel's choice."""
    platform = FakePlatform()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, partial(_serve, platform=platform), 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        platform.base_url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield platform
        nursery.cancel_scope.cancel()


async def _serve(stream: trio.SocketStream, platform: FakePlatform) -> None:
    connection = h11.Connection(h11.SERVER)
    try:
        async with stream:
            while await _serve_one(stream, connection, platform):
                connection.start_next_cycle()
    except (trio.BrokenResourceError, h11.RemoteProtocolError):
        return  # The client went away, which some tests make it do.


async def _serve_one(stream: trio.SocketStream, connection: h11.Connection, platform: FakePlatform) -> bool:
    request, body = None, b""
    while not isinstance(event := await _next_event(stream, connection), h11.EndOfMessage):
        if isinstance(event, h11.ConnectionClosed):
            return False
        if isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    assert request is not None
    path, _, query = request.target.decode().partition("?")
    headers = {name.decode(): value.decode() for name, value in request.headers}
    reply = await platform.answer(Call(request.method.decode(), path, query, headers, body))
    if reply.close:
        return False
    sent = {"content-length": str(len(reply.body)), "content-type": "application/json"} | reply.headers
    head = h11.Response(status_code=reply.status, headers=[(name.encode(), sent[name].encode()) for name in sent])
    for part in (head, h11.Data(data=reply.body), h11.EndOfMessage()):
        await stream.send_all(connection.send(part) or b"")
    return connection.our_state is h11.DONE


async def _next_event(stream: trio.SocketStream, connection: h11.Connection) -> Any:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(bytes(await stream.receive_some(65536)))
    return event
