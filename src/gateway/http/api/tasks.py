"""Tasks: reading one, and the reports of the runtime that works on it."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from quart import Blueprint, Response

from gateway.http.auth import Callers
from gateway.http.body import RuntimeBody, json_response, read_json
from gateway.ids import parse_id
from gateway.work.tasks.ports import Attempt, Task, TaskStatus
from gateway.work.tasks.tasks import TaskService

ATTEMPT_MAX = 2**31 - 1
"""The largest attempt number that the database can hold."""
AttemptNumber = Annotated[int, msgspec.Meta(ge=1, le=ATTEMPT_MAX)]
"""The attempt number that a claim returned."""


class AttemptBody(RuntimeBody):
    """Base of all reports: names the claim that the report is about, together with the task's id in the path."""

    attempt: AttemptNumber


class ProgressBody(AttemptBody):
    text: str


class CompleteBody(AttemptBody):
    """A finished run. `stderr_tail` is the end of the program's stderr; it explains a run without output."""

    output: str
    stderr_tail: str | None = None


class FailBody(AttemptBody):
    error: str
    failure_reason: str | None = None
    stderr_tail: str | None = None


def routes(tasks: TaskService, callers: Callers) -> Blueprint:
    blueprint = Blueprint("tasks", __name__)

    @blueprint.get("/api/tasks/<id>")
    async def get_task(id: str) -> Response:
        runtime = await callers.runtime()
        return json_response(_view(await tasks.find(runtime, _id(id))))

    @blueprint.post("/api/tasks/<id>/start")
    async def start_task(id: str) -> Response:
        runtime = await callers.runtime()
        body = await read_json(AttemptBody)
        return _answer(id, await tasks.start(runtime, _attempt(id, body)))

    @blueprint.post("/api/tasks/<id>/progress")
    async def report_progress(id: str) -> Response:
        runtime = await callers.runtime()
        body = await read_json(ProgressBody)
        return _answer(id, await tasks.progress(runtime, _attempt(id, body), body.text))

    @blueprint.post("/api/tasks/<id>/complete")
    async def complete_task(id: str) -> Response:
        runtime = await callers.runtime()
        body = await read_json(CompleteBody)
        attempt = _attempt(id, body)
        return _answer(id, await tasks.complete(runtime, attempt, body.output, stderr_tail=body.stderr_tail))

    @blueprint.post("/api/tasks/<id>/fail")
    async def fail_task(id: str) -> Response:
        runtime = await callers.runtime()
        body = await read_json(FailBody)
        attempt, tail = _attempt(id, body), body.stderr_tail
        return _answer(id, await tasks.fail(runtime, attempt, body.error, body.failure_reason, stderr_tail=tail))

    return blueprint


def _attempt(task_id: str, body: AttemptBody) -> Attempt:
    return Attempt(_id(task_id), body.attempt)


def _id(task_id: str) -> UUID:
    return parse_id(task_id, field="task_id")


def _answer(task_id: str, status: TaskStatus) -> Response:
    return json_response({"id": _id(task_id), "status": status})


def _view(task: Task) -> dict[str, object]:
    """Return the fields of a task that its runtime may see."""
    return {
        "id": task.id,
        "workspace_id": task.workspace_id,
        "agent_id": task.agent_id,
        "runtime_id": task.runtime_id,
        "kind": task.kind,
        "status": task.status,
        "chat_session_id": task.chat_session_id,
        "issue_id": task.issue_id,
        "attempt": task.attempt,
        "max_attempts": task.max_attempts,
        "progress": task.progress,
        "result": task.result,
        "error": task.error,
        "failure_reason": task.failure_reason,
        "stderr_tail": task.stderr_tail,
        "available_at": task.available_at,
        "dispatched_at": task.dispatched_at,
        "started_at": task.started_at,
        "completed_at": task.completed_at,
        "created_at": task.created_at,
    }
