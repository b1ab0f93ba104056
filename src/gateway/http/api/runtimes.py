"""Runtimes: the processes that work on tasks. They register, send heartbeats, and claim tasks."""

from __future__ import annotations

import dataclasses
import math
from uuid import UUID

import msgspec
from quart import Blueprint, Response

from gateway.core.naming import checked_name
from gateway.errors import Invalid
from gateway.http.api.tasks import AttemptNumber
from gateway.http.auth import Callers
from gateway.http.body import RuntimeBody, json_response, read_json
from gateway.http.places import Places
from gateway.http.query import given, takes
from gateway.ids import parse_id
from gateway.work.tasks.attachments import StoredAttachment
from gateway.work.tasks.ports import Attempt
from gateway.work.tasks.tasks import WAIT_SECONDS_MAX, AssignedTask, TaskService

RUNNING_MAX = 1_000
"""The most tasks that one runtime may report as running."""
HEARTBEAT_SECONDS = 15
"""The interval at which a runtime should send heartbeats. A runtime learns it when it registers."""


class RunningTask(RuntimeBody):
    """A claim that a runtime works on right now."""

    id: UUID
    attempt: AttemptNumber


class RegisterBody(RuntimeBody):
    """A runtime's description of itself.

    `workspace_id` defaults to the token's own workspace, the only one that the token opens. Without `name` the
    runtime's name stays as it is.

    `instance` names one of several workers on the same token. A worker keeps this name when it is started again. Tasks
    that it claimed before and does not list in `tasks` return to the queue.
    """

    name: str | None = None
    kind: str = ""
    version: str = ""
    workspace_id: UUID | None = None
    instance: str | None = None
    tasks: list[RunningTask] = msgspec.field(default_factory=list)


class HeartbeatBody(RuntimeBody):
    """A sign of life. `tasks` lists the claims that the runtime works on; the answer says which of them to stop."""

    tasks: list[RunningTask] = msgspec.field(default_factory=list)


class ClaimBody(RuntimeBody):
    """A request for a task. `instance` is the name under which the worker registered, if it has one."""

    instance: str | None = None


def routes(tasks: TaskService, waits: Places, callers: Callers) -> Blueprint:
    """Build the routes of runtimes. `waits` are the places of claims that wait for a task."""
    blueprint = Blueprint("runtimes", __name__)

    @blueprint.post("/api/runtimes/register")
    async def register_runtime() -> Response:
        runtime = await callers.runtime()
        body = await read_json(RegisterBody)
        view = await tasks.register(
            runtime,
            body.workspace_id,
            name=None if body.name is None else checked_name(body.name),
            kind=checked_name(body.kind, "kind", required=False),
            version=checked_name(body.version, "version", required=False),
            instance=_instance(body.instance),
            working_on=_attempts(body.tasks),
        )
        return json_response({**dataclasses.asdict(view), "heartbeat_seconds": HEARTBEAT_SECONDS})

    @blueprint.post("/api/runtimes/<id>/heartbeat")
    async def runtime_heartbeat(id: str) -> Response:
        runtime = await callers.runtime()
        body = await read_json(HeartbeatBody)
        stopped = await tasks.heartbeat(runtime, parse_id(id, field="runtime_id"), _attempts(body.tasks))
        stop = [{"id": attempt.task_id, "attempt": attempt.number} for attempt in stopped]
        return json_response({"status": "ok", "stop": stop})

    @blueprint.post("/api/runtimes/<id>/tasks/claim")
    @takes(wait_seconds=_judge_wait)
    async def claim_task(id: str) -> Response:
        runtime = await callers.runtime()
        wait_seconds = float(given("wait_seconds") or 0)
        instance = _instance((await read_json(ClaimBody)).instance)
        with waits.take(runtime.runtime_id):
            runtime_id = parse_id(id, field="runtime_id")
            assignment = await tasks.claim(
                runtime, runtime_id, wait_seconds, instance=instance, may_go_on=callers.credential_check()
            )
        return json_response({"task": None if assignment is None else task_json(assignment)})

    return blueprint


def _attempts(tasks: list[RunningTask]) -> list[Attempt]:
    if len(tasks) > RUNNING_MAX:
        message = f"{len(tasks)} tasks are named, more than {RUNNING_MAX}; use several runtimes"
        raise Invalid("invalid_body", message, field="tasks")
    return [Attempt(task.id, task.attempt) for task in tasks]


def _instance(name: str | None) -> str | None:
    return None if name is None else checked_name(name, "instance")


def task_json(assignment: AssignedTask) -> dict[str, object]:
    """Return a claimed task as its agent reads it.

    `id` and `attempt` identify the claim. Reports, heartbeats and `?attempt=` of a download name both. Once the task
    has been handed out again, the old number is refused with `attempt_over`.

    `text`, and with it `prompt`, begins with what others said around the message. Each piece is a block of its own:
    `<recent_context count="">` (the last messages of the group or topic before this run), `<quoted_message
    message_id="" sender="" type="">` (the message that is replied to) and `<forwarded_messages count="">` (the messages
    that a forwarded bundle holds). Then come the sender's own words. In a list every message begins with `[name]: ` and
    goes on in lines that begin with `| `; the agent's own earlier answers begin with `[assistant]: `. `[unable to
    fetch]` stands for content that could not be fetched, `[shortened]` for text that was cut. Text in a block cannot
    open or close a block: its `<` is written as `&lt;`. In a group, `prompt` also names the author before each sender's
    words.

    `attachments` are the files that came with a message; `n` counts over the whole task. `bytes` is null for a file
    that has not been fetched in time: downloading it fetches it. A file that cannot be fetched is not listed; a line
    after the sender's words says so, such as `[report.pdf: unable to fetch]`.

    A program may keep a memory of its own by `chat_session_id`. It must forget it when `context_generation` is higher
    than the number it remembers: a person started the conversation afresh with `/new`. The number is null for a task
    that does not come from a chat.
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
                "text": message.with_additions,
                "sent_at": message.sent_at,
                "age_seconds": message.age_seconds,
                "attachments": [_attachment_json(file) for file in message.attachments if not file.failed],
            }
            for message in assignment.messages
        ],
        "attempt": claim.attempt,
        "deadline": claim.deadline,
    }


def _attachment_json(file: StoredAttachment) -> dict[str, object]:
    """Return a file as its agent reads it. `bytes` is null if it was not fetched in time: downloading it fetches it."""
    described = file.described
    return {
        "n": file.n,
        "kind": file.kind,
        "name": described.name,
        "mime_type": described.mime_type,
        "bytes": file.bytes,
    }


def _issue_json(assignment: AssignedTask) -> dict[str, object] | None:
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


def _judge_wait(value: str) -> str | None:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    return None if 0 <= seconds <= WAIT_SECONDS_MAX else f"a number from 0 to {WAIT_SECONDS_MAX:g}"
