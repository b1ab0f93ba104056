"""The other end of the long connection, for load: as little as possible between two events.

asyncio and `websockets` (the official SDK's own library, with its C parts), so that the generator is not what is
measured. It keeps a fixed number of events outstanding: each ACK releases the next push.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import websockets
from websockets.asyncio.server import ServerConnection

from gateway.lark.wire.frame import Frame, decode, encode

APP_ID = "cli_00000000000be4c4"
APP_SECRET = "bench-secret-not-a-real-one"
BOT_OPEN_ID = "ou_bench_bot"


def person(number: int) -> str:
    return f"ou_bench_person_{number}"


def chat(number: int) -> str:
    return f"oc_bench_chat_{number}"


def event(app_id: str, serial: str, chat_number: int) -> bytes:
    """One im.message.receive_v1 event as the platform words it, in a direct chat."""
    now_ms = str(int(time.time() * 1000))
    return json.dumps(
        {
            "schema": "2.0",
            "header": {
                "event_id": f"ev_{serial}",
                "token": "",
                "create_time": now_ms,
                "event_type": "im.message.receive_v1",
                "tenant_key": "bench",
                "app_id": app_id,
            },
            "event": {
                "sender": {
                    "sender_id": {"open_id": person(chat_number), "union_id": f"on_bench_{chat_number}"},
                    "sender_type": "user",
                    "tenant_key": "bench",
                },
                "message": {
                    "message_id": f"om_{serial}",
                    "create_time": now_ms,
                    "update_time": now_ms,
                    "chat_id": chat(chat_number),
                    "chat_type": "p2p",
                    "message_type": "text",
                    "content": json.dumps({"text": f"a message of ordinary length, number {serial}"}),
                },
            },
        }
    ).encode()


@dataclass
class Run:
    """What one measured run saw. Latencies are seconds from push to ACK."""

    seconds: float
    acks: int
    refused: int
    latencies: list[float] = field(repr=False)

    @property
    def rate(self) -> float:
        return self.acks / self.seconds

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Platform:
    """Bootstrap, REST answers that let a client start, and the pushes."""

    def __init__(self) -> None:
        self.connections: dict[str, ServerConnection] = {}
        self.connected = asyncio.Event()
        self.http_port = 0
        self.ws_port = 0
        self._acks: asyncio.Queue[tuple[str, int, float]] = asyncio.Queue()
        self._serial = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    async def on_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode()
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length:")
                    ),
                    0,
                )
                body = await reader.readexactly(length)
                answer = json.dumps(self.answer(path, body)).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
                    + answer
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self, path: str, body: bytes) -> dict[str, object]:
        if path.startswith("/callback/ws/endpoint"):
            app_id = json.loads(body)["AppID"]
            url = f"ws://127.0.0.1:{self.ws_port}/ws/v2?device_id={app_id}&service_id=7&ticket=t&app={app_id}"
            config = {"ReconnectCount": -1, "ReconnectInterval": 1, "ReconnectNonce": 0, "PingInterval": 120}
            return {"code": 0, "msg": "", "data": {"URL": url, "ClientConfig": config}}
        if path.startswith("/open-apis/auth/"):
            return {"code": 0, "msg": "ok", "tenant_access_token": "t-bench", "expire": 7200}
        if path.startswith("/open-apis/bot/v3/info"):
            return {"code": 0, "msg": "ok", "bot": {"open_id": BOT_OPEN_ID, "app_name": "bench", "activate_status": 2}}
        return {"code": 0, "msg": "ok", "data": {"message_id": "om_answer", "user": {"union_id": "on_bench_bot"}}}

    async def on_socket(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        app_id = socket.request.path.rsplit("app=", 1)[1]
        self.connections[app_id] = socket
        self.connected.set()
        try:
            async for data in socket:
                frame = decode(data if isinstance(data, bytes) else data.encode())
                if frame.method == 1:
                    code = json.loads(frame.payload or b"{}").get("code", 0)
                    self._acks.put_nowait(((frame.header(b"message_id") or b"").decode(), code, time.perf_counter()))
        except websockets.ConnectionClosed:
            pass
        finally:
            if self.connections.get(app_id) is socket:
                del self.connections[app_id]

    async def push(self, socket: ServerConnection, chat_number: int, app_id: str) -> tuple[str, float]:
        self._serial += 1
        serial = f"{time.time_ns()}_{self._serial}"
        headers = {
            "type": "event",
            "message_id": serial,
            "trace_id": serial,
            "sum": "1",
            "seq": "0",
            "timestamp": str(int(time.time() * 1000)),
            "instance_id": "bench-instance",
        }
        frame = Frame(
            seq_id=self._serial,
            log_id=self._serial,
            service=7,
            method=1,
            headers=tuple((key.encode(), value.encode()) for key, value in headers.items()),
            payload=event(app_id, serial, chat_number),
        )
        started = time.perf_counter()
        await socket.send(encode(frame))
        return serial, started

    async def measure(self, *, events: int, outstanding: int, chats: int, app_id: str = APP_ID) -> Run:
        """Push `events` messages spread over `chats`, never more than `outstanding` unacknowledged."""
        socket = self.connections[app_id]
        sent: dict[str, float] = {}
        latencies: list[float] = []
        refused = 0
        pushed = 0
        begun = time.perf_counter()
        while len(latencies) < events:
            while pushed < events and len(sent) < outstanding:
                serial, started = await self.push(socket, pushed % chats, app_id)
                sent[serial] = started
                pushed += 1
            serial, code, at = await asyncio.wait_for(self._acks.get(), 30)
            latencies.append(at - sent.pop(serial))
            refused += code != 200
        return Run(time.perf_counter() - begun, events, refused, latencies)


@asynccontextmanager
async def open_platform() -> AsyncIterator[Platform]:
    platform = Platform()
    http = await asyncio.start_server(platform.on_http, "127.0.0.1", 0)
    async with http, websockets.serve(platform.on_socket, "127.0.0.1", 0, ping_interval=None, compression=None) as ws:
        platform.http_port = http.sockets[0].getsockname()[1]
        platform.ws_port = next(iter(ws.sockets)).getsockname()[1]
        yield platform
