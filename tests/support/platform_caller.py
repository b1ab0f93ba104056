"""A bot's HTTP calls to a simulated platform in memory: no sockets, any clock."""

from __future__ import annotations

import json
from typing import Any

from gateway.simulator.exchange import Answer, Request, read_query
from gateway.simulator.platform import App, SimChat
from gateway.simulator.simulator import Simulator

MESSAGES = "/open-apis/im/v1/messages"


class Caller:
    """A bot's HTTP calls without HTTP."""

    def __init__(self, simulator: Simulator, app: App) -> None:
        self.simulator = simulator
        self.app = app
        self.token = ""

    async def call(self, method: str, target: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
        answer = await self.answer(method, target, body, **headers)
        return answer.status, json.loads(answer.body)

    async def answer(self, method: str, target: str, body: Any = None, **headers: str) -> Answer:
        path, _, query = target.partition("?")
        if self.token and "authorization" not in headers:
            headers["authorization"] = f"Bearer {self.token}"
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return await self.simulator.respond(Request(method, path, read_query(query), headers, data))

    async def log_in(self) -> str:
        credentials = {"app_id": self.app.app_id, "app_secret": self.app.secret}
        _, document = await self.call("POST", "/open-apis/auth/v3/tenant_access_token/internal", credentials)
        self.token = document["tenant_access_token"]
        return self.token

    async def send(self, chat: SimChat, text: str, **more: Any) -> tuple[int, dict[str, Any]]:
        body = {"receive_id": chat.chat_id, "msg_type": "text", "content": json.dumps({"text": text}), **more}
        return await self.call("POST", f"{MESSAGES}?receive_id_type=chat_id", body)
