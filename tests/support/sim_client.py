"""Drives a simulator in another process through its control API.

Built on http.client in a worker thread, so that nothing here shares code with the clients under test. Never use it
under autojump_clock: threads and a clock that jumps do not mix.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import trio

CALL_SECONDS = 70.0  # longer than the longest wait the control API allows


class SimRefused(Exception):
    """The control API refused a call: its HTTP status and words."""

    def __init__(self, status: int, msg: str) -> None:
        super().__init__(f"{status}: {msg}")
        self.status = status


class SimClient:
    """One method per control call; apps, people and chats are ids or unique names. Cancelling abandons the call."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> Any:
        """One call under /_sim/; returns its JSON. Raises SimRefused."""
        arguments = {name: value for name, value in query.items() if value not in (None, "")}
        target = f"/_sim/{path}" + (f"?{urlencode(arguments)}" if arguments else "")
        status, data = await trio.to_thread.run_sync(self._call, method, target, body, abandon_on_cancel=True)
        document = json.loads(data)
        if status != 200:
            raise SimRefused(status, document.get("msg", "") if isinstance(document, dict) else "")
        return document

    def _call(self, method: str, target: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        parts = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=CALL_SECONDS)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, target, data, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    # -- apps, people and chats

    async def create_app(self, name: str = "", **options: Any) -> dict[str, Any]:
        """Returns app_id, app_secret, bot_open_id, bot_union_id and the rest."""
        return dict(await self.call("POST", "apps", {"name": name, **options}))

    async def create_person(self, name: str) -> dict[str, Any]:
        """Returns union_id and `open_ids` by app id."""
        return dict(await self.call("POST", "people", {"name": name}))

    async def create_group(self, name: str, apps: Sequence[str], people: Sequence[str]) -> dict[str, Any]:
        return dict(await self.call("POST", "groups", {"name": name, "apps": list(apps), "people": list(people)}))

    async def rotate_secret(self, app: str, overlap_seconds: float = 0.0) -> str:
        body = {"overlap_seconds": overlap_seconds}
        return str((await self.call("POST", f"apps/{quote(app)}/rotate-secret", body))["app_secret"])

    async def revoke_tokens(self, app: str) -> int:
        return int((await self.call("POST", f"apps/{quote(app)}/revoke-tokens", {}))["revoked"])

    async def settings(self, **changes: Any) -> dict[str, Any]:
        return dict(await self.call("PUT", "settings", changes))

    # -- talking

    async def say(self, sender: str, to: str, text: str = "", **options: Any) -> dict[str, Any]:
        """Returns the message and its `events`; with `wait_seconds`, after they are settled."""
        return dict(await self.call("POST", "messages", {"sender": sender, "to": to, "text": text, **options}))

    async def chats(self, person: str = "") -> list[dict[str, Any]]:
        return list(await self.call("GET", "chats", person=person))

    async def sent(self, chat: str, *, count: int = 0, seconds: float = 0.0) -> list[dict[str, Any]]:
        """What bots said in a chat; waits up to `seconds` for at least `count`, and fails when fewer came."""
        found: list[dict[str, Any]] = await self.call(
            "GET", f"chats/{chat}/messages", sender_type="app", wait_count=count, wait_seconds=seconds
        )
        assert len(found) >= count, f"{len(found)} of {count} answers after {seconds} s"
        return found

    # -- events

    async def push_event(self, app: str, **event: Any) -> dict[str, Any]:
        return dict(await self.call("POST", "events", {"app": app, **event}))

    async def push_raw(self, target: str, **raw: Any) -> int:
        return int((await self.call("POST", "raw-messages", {"target": target, **raw}))["queued"])

    async def event(self, event_id: str, *, seconds: float = 0.0) -> dict[str, Any]:
        """An event with its pushes; waits up to `seconds` for it to be settled."""
        return dict(await self.call("GET", f"events/{event_id}", wait_seconds=seconds))

    async def events(self, app: str = "") -> list[dict[str, Any]]:
        return list(await self.call("GET", "events", app=app))

    async def redeliver(self, event_id: str, *, seconds: float = 5.0) -> dict[str, Any]:
        return dict(await self.call("POST", f"events/{event_id}/redeliver", {}, wait_seconds=seconds))

    # -- connections

    async def connections(self, app: str = "") -> list[dict[str, Any]]:
        """The live ones."""
        return [one for one in await self.connection_history(app) if one["live"]]

    async def connection_history(self, app: str = "") -> list[dict[str, Any]]:
        return list((await self.call("GET", "connections", app=app))["connections"])

    async def wait_connected(self, app: str, count: int = 1, *, seconds: float = 30.0) -> list[dict[str, Any]]:
        """Wait until the app has exactly `count` live connections."""
        found = await self.call("GET", "connections", app=app, live_count=count, wait_seconds=seconds)
        live = [one for one in found["connections"] if one["live"]]
        assert len(live) == count, f"{len(live)} live connections after {seconds} s, not {count}"
        return live

    async def most_live(self, app_id: str) -> int:
        """The most connections of this app that were ever live at the same time."""
        return int((await self.call("GET", "connections", app=app_id))["most_live"].get(app_id, 0))

    async def drop(self, target: str, how: str = "close", code: int = 1000) -> list[dict[str, Any]]:
        """End one connection (`conn-N`) or all of an app: close, hang_up, reset or tear."""
        return list(await self.call("POST", f"connections/{quote(target)}/drop", {"how": how, "code": code}))

    async def freeze(self, target: str) -> list[dict[str, Any]]:
        return list(await self.call("POST", f"connections/{quote(target)}/freeze", {}))

    async def thaw(self, target: str) -> list[dict[str, Any]]:
        return list(await self.call("POST", f"connections/{quote(target)}/thaw", {}))

    # -- failures and the call log

    async def fail_next(self, path: str, times: int = 1, **how: Any) -> dict[str, Any]:
        return dict(await self.call("POST", "faults", {"path": path, "times": times, **how}))

    async def reject_handshakes(self, times: int = 1, **how: Any) -> dict[str, Any]:
        return dict(await self.call("POST", "handshake-faults", {"times": times, **how}))

    async def clear_faults(self) -> None:
        await self.call("DELETE", "faults")

    async def calls(self, app: str = "") -> list[dict[str, Any]]:
        return list((await self.call("GET", "calls", app=app))["calls"])

    async def call_counts(self) -> dict[str, int]:
        """Calls by "METHOD pattern status"."""
        return dict((await self.call("GET", "calls"))["counts"])
