"""A person who connects a bot over HTTP by having a code scanned, for tests that run the daemon as a process."""

from __future__ import annotations

from typing import Any

import asks
import trio

from support.processes import GatewayProcess
from support.world import World


class Person:
    """The workspace's owner with a browser of their own kind."""

    def __init__(self, world: World, token: str) -> None:
        self.base = f"/api/workspaces/{world.workspace.slug}/lark"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = asks.Session(connections=2)

    async def ask(self, daemon: GatewayProcess, method: str, path: str, body: object = None) -> Any:
        given = {"json": body} if body is not None else {}
        answer = await self._http.request(method, f"{daemon.url}{self.base}{path}", headers=self._headers, **given)
        assert answer.status_code in {200, 204}, (path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def begin(self, daemon: GatewayProcess, agent_id: object, region: str | None = None) -> tuple[str, str]:
        """Where the session tells its status, and what is behind the code."""
        body = {"agent_id": str(agent_id), "region": region}
        begun = await self.ask(daemon, "POST", "/install/begin", body)
        return f"/install/{begun['session_id']}/status", begun["qr_code_url"]

    async def until_connected(self, daemon: GatewayProcess, path: str) -> str:
        with trio.fail_after(40):
            while (status := await self.ask(daemon, "GET", path))["status"] == "pending":
                await trio.sleep(0.1)
        assert status["status"] == "success", status
        return str(status["installation_id"])


async def owner(world: World) -> Person:
    _, token = await world.directory.add_user_token(world.owner)
    return Person(world, token)
