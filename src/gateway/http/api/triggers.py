"""Webhook triggers of an autopilot: their addresses, filters and secrets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from quart import Blueprint, Response

from gateway.errors import Invalid
from gateway.http.auth import Callers
from gateway.http.body import NoBody, PersonBody, json_response, no_content, read_json
from gateway.ids import parse_id
from gateway.webhooks.filters import EventFilter
from gateway.webhooks.triggers import TriggerChange, TriggerService

UNSET = msgspec.UNSET


class TriggerFilterBody(PersonBody):
    """Lets one event pass, by its name. With `actions`, only those actions of the event pass."""

    event: str
    actions: tuple[str, ...] = ()


class CreateTriggerBody(PersonBody):
    kind: str
    provider: str = "generic"
    label: str | None = None
    enabled: bool | None = None
    event_filters: tuple[TriggerFilterBody, ...] | None = None
    cron_expression: str | None = None
    timezone: str | None = None


class ChangeTriggerBody(PersonBody):
    """A change of a trigger. A field that is left out stays as it is.

    `event_filters` null or empty lets every event pass.
    """

    enabled: bool | None = None
    provider: str | None = None
    label: str | None = None
    event_filters: tuple[TriggerFilterBody, ...] | msgspec.UnsetType | None = UNSET
    cron_expression: str | None = None
    timezone: str | None = None


class ReplaceSecretBody(PersonBody):
    signing_secret: str | None


class AddSecretBody(PersonBody):
    signing_secret: str
    expires_at: datetime | None = None


def routes(service: TriggerService, callers: Callers) -> Blueprint:
    blueprint = Blueprint("triggers", __name__)
    all_of = "/api/autopilots/<id>/triggers"
    one = f"{all_of}/<trigger_id>"

    @blueprint.get(all_of)
    async def list_triggers(id: str) -> Response:
        user = await callers.user()
        return json_response({"triggers": await service.list(_autopilot(id), user.user_id)})

    @blueprint.post(all_of)
    async def create_trigger(id: str) -> Response:
        user = await callers.user()
        body = await read_json(CreateTriggerBody)
        _refuse_schedule(body)
        change = TriggerChange(enabled=body.enabled, label=body.label, filters=_filters(body.event_filters or ()))
        return json_response(await service.create(_autopilot(id), user.user_id, body.kind, body.provider, change), 201)

    @blueprint.patch(one)
    async def change_trigger(id: str, trigger_id: str) -> Response:
        user = await callers.user()
        body = await read_json(ChangeTriggerBody)
        _refuse_schedule(body)
        sets_filters = body.event_filters is not UNSET
        filters = _filters(body.event_filters if isinstance(body.event_filters, tuple) else ())
        change = TriggerChange(body.enabled, body.label, sets_filters, filters, body.provider)
        return json_response(await service.change(_autopilot(id), _trigger(trigger_id), user.user_id, change))

    @blueprint.delete(one)
    async def delete_trigger(id: str, trigger_id: str) -> Response:
        user = await callers.user()
        await service.delete(_autopilot(id), _trigger(trigger_id), user.user_id)
        return no_content()

    @blueprint.post(f"{one}/rotate-token")
    async def rotate_token(id: str, trigger_id: str) -> Response:
        user = await callers.user()
        await read_json(NoBody)
        return json_response(await service.rotate_token(_autopilot(id), _trigger(trigger_id), user.user_id))

    @blueprint.put(f"{one}/signing-secret")
    async def replace_secrets(id: str, trigger_id: str) -> Response:
        user = await callers.user()
        secret = (await read_json(ReplaceSecretBody)).signing_secret or ""
        return json_response(await service.replace_secrets(_autopilot(id), _trigger(trigger_id), user.user_id, secret))

    @blueprint.post(f"{one}/signing-secrets")
    async def add_secret(id: str, trigger_id: str) -> Response:
        user = await callers.user()
        body = await read_json(AddSecretBody)
        added = await service.add_secret(
            _autopilot(id), _trigger(trigger_id), user.user_id, body.signing_secret, body.expires_at
        )
        return json_response(added, 201)

    @blueprint.delete(f"{one}/signing-secrets/<secret_id>")
    async def delete_secret(id: str, trigger_id: str, secret_id: str) -> Response:
        user = await callers.user()
        await service.delete_secret(
            _autopilot(id), _trigger(trigger_id), parse_id(secret_id, field="secret_id"), user.user_id
        )
        return no_content()

    return blueprint


def _refuse_schedule(body: CreateTriggerBody | ChangeTriggerBody) -> None:
    """Refuse the fields of a schedule, which a webhook trigger does not have. Raises Invalid.

    Ignoring them would hide a misunderstanding.
    """
    for name in ("cron_expression", "timezone"):
        if getattr(body, name) is not None:
            raise Invalid(f"invalid_{name}", f"a webhook trigger has no {name}", field=name)


def _filters(given: Sequence[TriggerFilterBody]) -> tuple[EventFilter, ...]:
    # A blank beside a name would keep it from ever matching.
    return tuple(EventFilter(each.event.strip(), tuple(action.strip() for action in each.actions)) for each in given)


def _autopilot(text: str) -> UUID:
    return parse_id(text, field="autopilot_id")


def _trigger(text: str) -> UUID:
    return parse_id(text, field="trigger_id")
