"""The log of webhook deliveries: finding deliveries, and replaying one or many of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from uuid import UUID

from quart import Blueprint, Response, request

from gateway.errors import Invalid
from gateway.http.auth import Callers
from gateway.http.body import NoBody, PersonBody, json_response, read_json
from gateway.http.paging import Paging, listing
from gateway.http.query import Judge, given, one_of, takes, text
from gateway.ids import parse_id
from gateway.webhooks.log import DeliveryLog
from gateway.webhooks.ports import STATUSES, BulkReplay, DeliveryFilter, ReplayFilter
from gateway.webhooks.replay import BulkReplays, Plan, Replayer, checked_key
from gateway.work.autopilots.autopilots import AutopilotService
from gateway.work.people.directory import Directory

LOG = Paging(20, 100, asked_max=1_000)
FILTER: dict[str, Judge] = {"status": one_of(*STATUSES), "event": text(255), "q": text()}
BUDGET_DEFAULT = 100


class FilterBody(PersonBody):
    status: str | None = None
    event: str | None = None
    q: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class BulkBody(PersonBody):
    """Selects the deliveries to replay, by a filter or by `all`; exactly one is needed.

    Nothing is replayed unless `dry_run` is false.
    """

    filter: FilterBody | None = None
    all: bool = False
    budget: int = BUDGET_DEFAULT
    dry_run: bool = True


def routes(
    log: DeliveryLog,
    replayer: Replayer,
    bulk: BulkReplays,
    autopilots: AutopilotService,
    *,
    directory: Directory,
    callers: Callers,
) -> Blueprint:
    blueprint = Blueprint("deliveries", __name__)
    of_autopilot = "/api/autopilots/<id>/deliveries"

    @blueprint.get("/api/workspaces/<workspace>/deliveries")
    @takes(**LOG.parameters, **FILTER)
    async def list_workspace_deliveries(workspace: str) -> Response:
        user = await callers.user()
        member = await directory.membership(workspace, user.user_id)
        page = LOG.read()
        rows, total = await log.page(member.workspace_id, None, read_filter(), limit=page.limit, offset=page.offset)
        return listing("deliveries", rows, page, total)

    @blueprint.get(of_autopilot)
    @takes(**LOG.parameters, **FILTER)
    async def list_deliveries(id: str) -> Response:
        user = await callers.user()
        autopilot = await autopilots.find(_autopilot(id), user.user_id)
        page = LOG.read()
        rows, total = await log.page(
            autopilot.workspace_id, autopilot.id, read_filter(), limit=page.limit, offset=page.offset
        )
        return listing("deliveries", rows, page, total)

    @blueprint.get(f"{of_autopilot}/<delivery_id>")
    async def get_delivery(id: str, delivery_id: str) -> Response:
        user = await callers.user()
        autopilot = await autopilots.find(_autopilot(id), user.user_id)
        return json_response(await log.find(autopilot.id, _delivery(delivery_id)))

    @blueprint.post(f"{of_autopilot}/<delivery_id>/replay")
    async def replay_delivery(id: str, delivery_id: str) -> Response:
        user = await callers.user()
        await read_json(NoBody)
        key = checked_key(request.headers.get("Idempotency-Key"))
        autopilot = await autopilots.find_writable(_autopilot(id), user.user_id)
        replay_id, outcome = await replayer.replay(autopilot.id, _delivery(delivery_id), key)
        row = await log.find(autopilot.id, replay_id)
        if outcome == "failed":
            return json_response({**row, "error": row["error"] or "the run could not be begun", "code": outcome}, 500)
        return json_response(row, 201)

    @blueprint.post(f"{of_autopilot}/replays")
    async def start_bulk_replay(id: str) -> Response:
        user = await callers.user()
        body = await read_json(BulkBody)
        autopilot = await autopilots.find_writable(_autopilot(id), user.user_id)
        plan = await bulk.plan(autopilot.id, _replay_filter(body), body.budget)
        if body.dry_run:
            return json_response(_plan_view(plan))
        replay = await bulk.start(autopilot.workspace_id, autopilot.id, user.user_id, plan)
        return json_response({**_bulk_view(replay), "matched": plan.matched}, 201)

    @blueprint.get(f"{of_autopilot}/replays/<replay_id>")
    async def get_bulk_replay(id: str, replay_id: str) -> Response:
        user = await callers.user()
        autopilot = await autopilots.find(_autopilot(id), user.user_id)
        return json_response(_bulk_view(await bulk.find(autopilot.id, parse_id(replay_id, field="replay_id"))))

    @blueprint.delete(f"{of_autopilot}/replays/<replay_id>")
    async def cancel_bulk_replay(id: str, replay_id: str) -> Response:
        user = await callers.user()
        autopilot = await autopilots.find_writable(_autopilot(id), user.user_id)
        ended = await bulk.cancel(autopilot.id, parse_id(replay_id, field="replay_id"))
        return json_response(_bulk_view(ended))

    return blueprint


def read_filter() -> DeliveryFilter:
    return DeliveryFilter(_text(given("status")), _text(given("event")), _text(given("q")))


def _text(value: str | None) -> str | None:
    """Return the trimmed text, or None for a blank. NUL becomes a blank: no row holds it, and no query can carry it."""
    return (value or "").replace("\x00", " ").strip() or None


def _replay_filter(body: BulkBody) -> ReplayFilter:
    """Return the filter of a bulk replay.

    Raises Invalid for an empty filter without `all`, for a filter together with `all`, and for a status
    that no delivery has.
    """
    given = body.filter or FilterBody()
    if (status := _text(given.status)) is not None and status not in STATUSES:
        message = f"status must be one of {', '.join(STATUSES)}"
        raise Invalid("invalid_body", message, field="filter.status")
    wanted = ReplayFilter(status, _text(given.event), _text(given.q), _instant(given.since), _instant(given.until))
    if (wanted == ReplayFilter()) is body.all:
        return wanted
    if body.all:
        message = "give either a filter or all: true, not both"
        raise Invalid("filter_and_all", message, field="filter")
    names = ", ".join(FilterBody.__struct_fields__)
    message = f"say which deliveries are meant: give a filter with one of {names}, or all: true for every one of them"
    raise Invalid("filter_missing", message, field="filter")


def _instant(moment: datetime | None) -> datetime | None:
    """Return the moment with a zone. One without a zone is read as UTC, the zone of all times in this API."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _autopilot(text: str) -> UUID:
    return parse_id(text, field="autopilot_id")


def _delivery(text: str) -> UUID:
    return parse_id(text, field="delivery_id")


def _plan_view(plan: Plan) -> dict[str, object]:
    return {
        "id": None,
        "dry_run": True,
        "status": "planned",
        "filter": _filter_view(asdict(plan.filter)),
        "budget": plan.budget,
        "matched": plan.matched,
        "planned": plan.planned,
        "count": plan.planned,
    }


def _bulk_view(replay: BulkReplay) -> dict[str, object]:
    done = replay.accepted + replay.skipped + replay.failed
    shown = {**asdict(replay), "filter": _filter_view(replay.filter)}
    return {**shown, "dry_run": False, "count": replay.planned, "done": done}


def _filter_view(stored: Mapping[str, object]) -> dict[str, object]:
    """Return a stored filter under the names that a request uses for it."""
    return {"q" if name == "text" else name: value for name, value in stored.items()}
