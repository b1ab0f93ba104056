"""Runtimes: the processes that work on tasks. They register, say that they live, and ask for work."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from quart import Quart, Response, request

from gateway.errors import RejectedRequest
from gateway.http.auth import require_runtime
from gateway.http.body import json_response, read_json
from gateway.ids import parse_id
from gateway.work.tasks import WAIT_SECONDS_MAX, Assignment

if TYPE_CHECKING:
    from gateway.http.app import Services

HEARTBEAT_SECONDS = 15
"""How often a runtime should be heard of; told to it when it registers."""


class RegisterBody(msgspec.Struct):
    """Without `workspace_id` the token's own is meant, the only one it opens. Without `name` the name stays."""

    name: str | None = None
    kind: str = ""
    version: str = ""
    workspace_id: UUID | None = None


class HeartbeatBody(msgspec.Struct):
    """`tasks`: what the runtime is working on right now, for one that wants to be told when to stop."""

    tasks: list[UUID] = []


def add_routes(app: Quart, services: Services) -> None:
    tasks = services.tasks

    @app.post("/api/runtimes/register")
    async def register_runtime() -> Response:
        runtime = await require_runtime()
        body = await read_json(RegisterBody)
        view = await tasks.register(
            runtime,
            body.workspace_id,
            name=None if body.name is None else _label(body.name, "name", required=True),
            kind=_label(body.kind, "kind"),
            version=_label(body.version, "version"),
        )
        return json_response({**dataclasses.asdict(view), "heartbeat_seconds": HEARTBEAT_SECONDS})

    @app.post("/api/runtimes/<id>/heartbeat")
    async def runtime_heartbeat(id: str) -> Response:
        runtime = await require_runtime()
        body = await read_json(HeartbeatBody)
        stopped = await tasks.heartbeat(runtime, parse_id(id, field="runtime_id"), body.tasks[:1000])
        return json_response({"status": "ok", "stop": stopped})

    @app.post("/api/runtimes/<id>/tasks/claim")
    async def claim_task(id: str) -> Response:
        runtime = await require_runtime()
        wait_seconds = _wait_seconds(request.args.get("wait_seconds", "0"))
        assignment = await tasks.claim(runtime, parse_id(id, field="runtime_id"), wait_seconds)
        return json_response({"task": None if assignment is None else task_json(assignment)})


def task_json(assignment: Assignment) -> dict[str, object]:
    """A claimed task as its agent reads it.

    A program that keeps a memory of its own by `chat_session_id` forgets it when `context_generation` is higher than
    the one it remembers: somebody began afresh with `/new`. It is null for a task that is not a chat's.
    """
    claim = assignment.claim
    return {
        "id": claim.id,
        "kind": claim.kind,
        "agent": {"id": claim.agent_id, "name": claim.agent_name},
        "workspace_id": claim.workspace_id,
        "chat_session_id": claim.chat_session_id,
        "context_generation": claim.context_generation,
        "issue": _issue_json(assignment),
        "prompt": assignment.prompt,
        "messages": [
            {
                "role": message.role,
                "author": message.author,
                "text": message.text,
                "sent_at": message.sent_at,
                "age_seconds": message.age_seconds,
                "attachments": [],
            }
            for message in assignment.messages
        ],
        "attempt": claim.attempt,
        "deadline": claim.deadline,
    }


def _issue_json(assignment: Assignment) -> dict[str, object] | None:
    claim = assignment.claim
    if claim.issue_id is None:
        return None
    return {
        "id": claim.issue_id,
        "key": claim.issue_key,
        "title": claim.issue_title,
        "description": claim.issue_description,
        "status": claim.issue_status,
    }


def _wait_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= WAIT_SECONDS_MAX:
        message = f"wait_seconds must be between 0 and {WAIT_SECONDS_MAX:g}"
        raise RejectedRequest(400, "invalid_parameter", message, field="wait_seconds")
    return seconds


def _label(text: str, field: str, *, required: bool = False) -> str:
    """A line that people will see in lists and on terminals."""
    text = text.strip()
    least = int(required)
    if not least <= len(text) <= 200 or not text.isprintable():
        raise RejectedRequest(
            400, "invalid_body", f"{field} must have {least} to 200 printable characters", field=field
        )
    return text
