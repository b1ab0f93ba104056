"""Autopilots: creating and changing them, starting them by hand, and listing their runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

import msgspec
from quart import Blueprint, Response, request

from gateway.http.auth import Callers
from gateway.http.body import NoBody, PersonBody, json_response, read_json
from gateway.http.paging import PAGED, listing, read_page
from gateway.http.query import takes
from gateway.ids import parse_id
from gateway.work.autopilots.autopilots import (
    AssigneeKind,
    Autopilot,
    AutopilotDraft,
    AutopilotService,
    AutopilotStatus,
    ConcurrencyPolicy,
    ExecutionMode,
    Run,
)
from gateway.work.issues.issues import Priority
from gateway.work.people.directory import Directory

HIDDEN = ("role", "assigned_by_id")
"""Fields that the services need for their decisions, and that no answer shows."""

TriggerViews = Callable[[Autopilot, UUID], Awaitable[Sequence[object]]]
"""The triggers of an autopilot, as the person with that id may see them."""


class CreateAutopilotBody(PersonBody):
    title: str
    assignee_id: UUID
    assignee_type: AssigneeKind = "agent"
    description: str = ""
    project_id: UUID | None = None
    priority: Priority = "medium"
    status: AutopilotStatus = "active"
    execution_mode: ExecutionMode = "create_issue"
    issue_title_template: str | None = ""
    concurrency_policy: ConcurrencyPolicy = "skip"


class ChangeAutopilotBody(PersonBody):
    """A field that is left out stays as it is."""

    title: str | msgspec.UnsetType = msgspec.UNSET
    assignee_id: UUID | msgspec.UnsetType = msgspec.UNSET
    assignee_type: AssigneeKind | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType = msgspec.UNSET
    project_id: UUID | msgspec.UnsetType | None = msgspec.UNSET
    priority: Priority | msgspec.UnsetType = msgspec.UNSET
    status: AutopilotStatus | msgspec.UnsetType = msgspec.UNSET
    execution_mode: ExecutionMode | msgspec.UnsetType = msgspec.UNSET
    issue_title_template: str | msgspec.UnsetType | None = msgspec.UNSET
    concurrency_policy: ConcurrencyPolicy | msgspec.UnsetType = msgspec.UNSET


def routes(
    autopilots: AutopilotService, directory: Directory, triggers: TriggerViews | None, callers: Callers
) -> Blueprint:
    """Build the routes of autopilots. Without `triggers` an autopilot is shown without any."""
    blueprint = Blueprint("autopilots", __name__)

    @blueprint.get("/api/workspaces/<workspace>/autopilots")
    @takes(**PAGED)
    async def list_autopilots(workspace: str) -> Response:
        user = await callers.user()
        page = read_page()
        member = await directory.membership(workspace, user.user_id)
        found, total = await autopilots.list(member.workspace_id, user.user_id, limit=page.limit, offset=page.offset)
        return listing("autopilots", [_view(autopilot) for autopilot in found], page, total)

    @blueprint.post("/api/workspaces/<workspace>/autopilots")
    async def create_autopilot(workspace: str) -> Response:
        user = await callers.user()
        member = await directory.membership(workspace, user.user_id)
        draft = AutopilotDraft(**_given(await read_json(CreateAutopilotBody)))
        created = await autopilots.create(member.workspace_id, user.user_id, member.role, draft)
        return json_response(_view(created), 201)

    @blueprint.get("/api/autopilots/<id>")
    async def get_autopilot(id: str) -> Response:
        user = await callers.user()
        found = await autopilots.find(_id(id), user.user_id)
        shown = [] if triggers is None else await triggers(found, user.user_id)
        return json_response({**_view(found), "triggers": shown})

    @blueprint.patch("/api/autopilots/<id>")
    async def change_autopilot(id: str) -> Response:
        user = await callers.user()
        given = _given(await read_json(ChangeAutopilotBody))
        changed = await autopilots.update(_id(id), user.user_id, lambda draft: replace(draft, **given))
        return json_response(_view(changed))

    @blueprint.post("/api/autopilots/<id>/trigger")
    async def trigger_autopilot(id: str) -> Response:
        """Start the autopilot by hand. Such a run takes no input."""
        user = await callers.user()
        await read_json(NoBody)
        run = await autopilots.trigger(_id(id), user.user_id, request.headers.get("Idempotency-Key"))
        return json_response(_run_view(run))

    @blueprint.get("/api/autopilots/<id>/runs")
    @takes(**PAGED)
    async def list_runs(id: str) -> Response:
        user = await callers.user()
        page = read_page()
        found, total = await autopilots.runs(_id(id), user.user_id, limit=page.limit, offset=page.offset)
        return listing("runs", [_run_view(run) for run in found], page, total)

    @blueprint.get("/api/autopilots/<id>/runs/<run_id>")
    async def get_run(id: str, run_id: str) -> Response:
        user = await callers.user()
        return json_response(_run_view(await autopilots.run(_id(id), parse_id(run_id, field="run_id"), user.user_id)))

    return blueprint


def _id(text: str) -> UUID:
    return parse_id(text, field="autopilot_id")


def _given(body: CreateAutopilotBody | ChangeAutopilotBody) -> dict[str, Any]:
    """Return the fields that were sent. A null title template becomes an empty one, which means the same."""
    given = {name: value for name in body.__struct_fields__ if (value := getattr(body, name)) is not msgspec.UNSET}
    if given.get("issue_title_template", "") is None:
        given["issue_title_template"] = ""
    return given


def _view(autopilot: Autopilot) -> dict[str, Any]:
    return {name: value for name, value in asdict(autopilot).items() if name not in HIDDEN}


def _run_view(run: Run) -> dict[str, Any]:
    """Return a run with its payload as it is stored: as a value, its numbers would be rounded."""
    payload = None if run.trigger_payload is None else msgspec.Raw(run.trigger_payload)
    return {**asdict(run), "trigger_payload": payload}
