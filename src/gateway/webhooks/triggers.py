"""The management of webhook triggers: an address that can be changed, a provider, filters, and secrets.

A stored secret is never shown again, except for its last four characters. The address is a credential too, because it
is all that a sender needs to start the agent with a text of its own. The address and the four characters are shown to
people who may change the trigger. Other members only see that they exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from gateway.core.naming import checked_name
from gateway.errors import Conflict, Invalid, NotFound, StoreConflict, Unavailable
from gateway.ids import WEBHOOK_TOKEN_PREFIX, new_id, new_token
from gateway.keyring import KeyRing
from gateway.webhooks.filters import EventFilter, filters_problem
from gateway.webhooks.signature import SCHEMES, SECRET_EXPECTED, secret_problem, secret_warning
from gateway.work.autopilots.autopilots import Autopilot, AutopilotService, is_writable

TOKEN_TAKEN = "autopilot_trigger_token_key"  # noqa: S105  (a constraint's name)
TOKEN_ATTEMPTS_MAX = 3
SECRETS_MAX = 5
"""Live secrets that one trigger may have at the same time."""


@dataclass(frozen=True, slots=True)
class TriggerDetails:
    """A stored trigger. `secrets` holds the parts of each secret that may be shown: id, hint, dates."""

    id: UUID
    workspace_id: UUID
    autopilot_id: UUID
    kind: str
    enabled: bool
    cron_expression: str | None
    timezone: str
    next_run_at: datetime | None
    webhook_token: str | None = field(repr=False)
    provider: str
    event_filters: Any
    label: str
    last_fired_at: datetime | None
    created_at: datetime
    updated_at: datetime
    secrets: Sequence[dict[str, Any]]


_OPEN = (
    "id", "autopilot_id", "kind", "enabled", "cron_expression", "timezone", "next_run_at", "provider", "event_filters",
    "label", "last_fired_at", "created_at", "updated_at",
)  # fmt: skip
"""The fields of a trigger that every member sees. A new column is hidden until it is added here."""


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A sealed secret, ready to be stored."""

    id: UUID
    sealed: str = field(repr=False)
    last_four: str = field(repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TriggerChange:
    """A change to a trigger. A field that is None stays as it is. `filters` only counts with `sets_filters`."""

    enabled: bool | None = None
    label: str | None = None
    sets_filters: bool = False
    filters: tuple[EventFilter, ...] = ()
    provider: str | None = None


class TriggerStore(Protocol):
    """The store of triggers. Every method raises StoreUnavailable."""

    async def triggers(self, autopilot_id: UUID) -> Sequence[TriggerDetails]: ...

    async def trigger(self, autopilot_id: UUID, trigger_id: UUID) -> TriggerDetails | None: ...

    async def add(
        self,
        trigger_id: UUID,
        workspace_id: UUID,
        autopilot_id: UUID,
        token: str,
        *,
        provider: str,
        change: TriggerChange,
    ) -> None:
        """Add a trigger. Raises StoreConflict with TOKEN_TAKEN when another trigger has that token."""

    async def change(self, workspace_id: UUID, trigger_id: UUID, change: TriggerChange) -> None: ...

    async def rotate(self, workspace_id: UUID, trigger_id: UUID, token: str) -> None:
        """Set a new token. Raises StoreConflict with TOKEN_TAKEN when another trigger has that token."""

    async def delete(self, workspace_id: UUID, trigger_id: UUID) -> None: ...

    async def put_secrets(
        self, workspace_id: UUID, trigger_id: UUID, secret: SealedSecret | None, user_id: UUID, *, replaces: bool
    ) -> bool:
        """Add a secret, beside the others or in place of all of them (`replaces`). False beyond SECRETS_MAX."""

    async def delete_secret(self, workspace_id: UUID, trigger_id: UUID, secret_id: UUID) -> bool: ...


class TriggerService:
    """The actions of people on the webhook triggers of an autopilot. The autopilot's own rules decide who may do them.

    Raises Invalid for a bad value, with its field, Unavailable without a key to seal with, and Forbidden, NotFound and
    Conflict as AutopilotService does.
    """

    def __init__(
        self,
        store: TriggerStore,
        autopilots: AutopilotService,
        ring: KeyRing | None,
        *,
        clock: Callable[[], datetime],
        public_url: str | None = None,
        mint: Callable[[], UUID] = new_id,
        mint_token: Callable[[str], str] = new_token,
    ) -> None:
        self._store = store
        self._autopilots = autopilots
        self._ring = ring
        self._clock = clock
        self._public_url = public_url
        self._mint = mint
        self._mint_token = mint_token

    async def views(self, autopilot: Autopilot, user_id: UUID) -> list[dict[str, Any]]:
        """Return all triggers of an autopilot as this person may see them. The caller has checked access to it."""
        triggers = await self._store.triggers(autopilot.id)
        return [self._view(trigger, to_writer=is_writable(autopilot, user_id)) for trigger in triggers]

    async def list(self, autopilot_id: UUID, user_id: UUID) -> list[dict[str, Any]]:
        return await self.views(await self._autopilots.find(autopilot_id, user_id), user_id)

    async def create(
        self, autopilot_id: UUID, user_id: UUID, kind: str, provider: str, change: TriggerChange
    ) -> dict[str, Any]:
        autopilot = await self._autopilots.find_writable(autopilot_id, user_id)
        if kind != "webhook":
            raise _bad("kind", f"a trigger of kind {kind[:40]!r} cannot be made here; use webhook")
        _require_provider(provider)
        trigger_id = self._mint()
        await self._with_token(
            lambda token: self._store.add(
                trigger_id, autopilot.workspace_id, autopilot.id, token, provider=provider, change=_checked(change)
            )
        )
        return await self._shown(autopilot_id, trigger_id)

    async def change(
        self, autopilot_id: UUID, trigger_id: UUID, user_id: UUID, change: TriggerChange
    ) -> dict[str, Any]:
        trigger = await self._writable(autopilot_id, trigger_id, user_id)
        if change.sets_filters and trigger.kind != "webhook":
            raise _bad("event_filters", "only a webhook trigger has event filters")
        if change.provider is not None:
            _require_new_provider(trigger, change.provider)
        await self._store.change(trigger.workspace_id, trigger.id, _checked(change))
        return await self._shown(autopilot_id, trigger_id)

    async def delete(self, autopilot_id: UUID, trigger_id: UUID, user_id: UUID) -> None:
        trigger = await self._writable(autopilot_id, trigger_id, user_id)
        await self._store.delete(trigger.workspace_id, trigger.id)

    async def rotate_token(self, autopilot_id: UUID, trigger_id: UUID, user_id: UUID) -> dict[str, Any]:
        """Give a trigger a new address. The old address is unknown from now on."""
        trigger = await self._webhook(autopilot_id, trigger_id, user_id)
        await self._with_token(lambda token: self._store.rotate(trigger.workspace_id, trigger.id, token))
        return await self._shown(autopilot_id, trigger_id)

    # --- secrets ------------------------------------------------------------------------------------------------------

    async def replace_secrets(self, autopilot_id: UUID, trigger_id: UUID, user_id: UUID, secret: str) -> dict[str, Any]:
        """Replace all secrets with this one. An empty string leaves none."""
        trigger = await self._webhook(autopilot_id, trigger_id, user_id)
        text = secret.strip()
        sealed = self._sealed(trigger, text, None) if text else None
        await self._store.put_secrets(trigger.workspace_id, trigger.id, sealed, user_id, replaces=True)
        shown = await self._shown(autopilot_id, trigger_id)
        return {**shown, "warnings": [*shown["warnings"], *_key_warnings(trigger, text)]}

    async def add_secret(
        self, autopilot_id: UUID, trigger_id: UUID, user_id: UUID, secret: str, expires_at: datetime | None
    ) -> dict[str, Any]:
        """Add a secret beside the others. Return the parts of it that may be shown, and warnings about it."""
        trigger = await self._webhook(autopilot_id, trigger_id, user_id)
        text = secret.strip()
        sealed = self._sealed(trigger, text, self._checked_end(expires_at))
        added = await self._store.put_secrets(trigger.workspace_id, trigger.id, sealed, user_id, replaces=False)
        if not added:
            raise Conflict("too_many_secrets", f"a trigger has at most {SECRETS_MAX} signing secrets")
        found = await self._find(autopilot_id, trigger_id)
        view = next(_secret_view(shown, to_writer=True) for shown in found.secrets if shown["id"] == str(sealed.id))
        return {**view, "warnings": _key_warnings(trigger, text)}

    async def delete_secret(self, autopilot_id: UUID, trigger_id: UUID, secret_id: UUID, user_id: UUID) -> None:
        trigger = await self._webhook(autopilot_id, trigger_id, user_id)
        if not await self._store.delete_secret(trigger.workspace_id, trigger.id, secret_id):
            raise NotFound("secret_not_found", "this trigger has no such secret")

    def _sealed(self, trigger: TriggerDetails, text: str, expires_at: datetime | None) -> SealedSecret:
        problem = secret_problem(trigger.provider, text)
        if problem is not None:
            raise _bad("signing_secret", problem)
        if self._ring is None:
            message = "secret_key is unset on this server: a secret could not be stored"
            raise Unavailable("secret_key_missing", message)
        secret_id = self._mint()
        return SealedSecret(secret_id, self._ring.seal_text(text, owner=secret_id), text[-4:], expires_at)

    def _checked_end(self, expires_at: datetime | None) -> datetime | None:
        if expires_at is None:
            return None
        end = expires_at if expires_at.tzinfo is not None else expires_at.replace(tzinfo=UTC)
        if end <= self._clock():
            raise _bad("expires_at", "expires_at lies in the past: the secret would never match")
        return end

    # --- pieces -------------------------------------------------------------------------------------------------------

    async def _with_token(self, store: Callable[[str], Any]) -> None:
        """Store a trigger with a new token, with a few attempts if the token is taken.

        A repeated token of 256 random bits means a broken source of randomness rather than chance, so more attempts
        would not help. Raises the last StoreConflict.
        """
        for attempt in range(1, TOKEN_ATTEMPTS_MAX + 1):
            try:
                await store(self._mint_token(WEBHOOK_TOKEN_PREFIX))
                return
            except StoreConflict as error:
                if error.constraint != TOKEN_TAKEN or attempt == TOKEN_ATTEMPTS_MAX:
                    raise

    async def _writable(self, autopilot_id: UUID, trigger_id: UUID, user_id: UUID) -> TriggerDetails:
        await self._autopilots.find_writable(autopilot_id, user_id)
        return await self._find(autopilot_id, trigger_id)

    async def _webhook(self, autopilot_id: UUID, trigger_id: UUID, user_id: UUID) -> TriggerDetails:
        trigger = await self._writable(autopilot_id, trigger_id, user_id)
        if trigger.kind != "webhook":
            raise Invalid("not_a_webhook", "only a webhook trigger has an address and secrets")
        return trigger

    async def _find(self, autopilot_id: UUID, trigger_id: UUID) -> TriggerDetails:
        trigger = await self._store.trigger(autopilot_id, trigger_id)
        if trigger is None:
            raise NotFound("trigger_not_found", "this autopilot has no such trigger")
        return trigger

    async def _shown(self, autopilot_id: UUID, trigger_id: UUID) -> dict[str, Any]:
        """Return the answer to a change. Its reader may change the trigger, so the credentials are shown."""
        return self._view(await self._find(autopilot_id, trigger_id), to_writer=True)

    def _view(self, trigger: TriggerDetails, *, to_writer: bool) -> dict[str, Any]:
        token = trigger.webhook_token if to_writer else None
        path = None if token is None else f"/api/webhooks/autopilots/{token}"
        base = (self._public_url or "").rstrip("/")
        secrets = [_secret_view(secret, to_writer=to_writer) for secret in trigger.secrets]
        return {
            **{name: getattr(trigger, name) for name in _OPEN},
            "has_webhook_url": trigger.webhook_token is not None,
            "webhook_token": token,
            "webhook_path": path,
            "webhook_url": f"{base}{path}" if base and path else None,
            "has_signing_secret": bool(secrets),
            "signing_secret_hint": secrets[-1]["signing_secret_hint"] if secrets else None,
            "signing_secrets": secrets,
            "warnings": _trigger_warnings(trigger),
        }


def _trigger_warnings(trigger: TriggerDetails) -> list[str]:
    if trigger.kind != "webhook" or trigger.secrets or trigger.provider not in SECRET_EXPECTED:
        return []
    message = f"without a signing secret this {trigger.provider} trigger believes everyone who knows its address"
    return [f"{message}; set one, and the same at the sender"]


def _key_warnings(trigger: TriggerDetails, secret: str) -> list[str]:
    warning = secret_warning(trigger.provider, secret)
    return [] if warning is None else [warning]


def _secret_view(secret: dict[str, Any], *, to_writer: bool) -> dict[str, Any]:
    return {
        "id": secret["id"],
        "signing_secret_hint": secret["hint"] if to_writer else None,
        "expires_at": secret["expires_at"],
        "created_at": secret["created_at"],
    }


def _require_provider(provider: str) -> None:
    if provider not in SCHEMES:
        raise _bad("provider", f"provider is one of {', '.join(SCHEMES)}")


def _require_new_provider(trigger: TriggerDetails, provider: str) -> None:
    """Check a change of the provider. It is refused while the trigger has secrets.

    Secrets belong to one way of signing. Under another one they would match nothing, or would not be asked for at all.
    """
    _require_provider(provider)
    if trigger.kind != "webhook":
        raise _bad("provider", "only a webhook trigger has a provider")
    if trigger.secrets and provider != trigger.provider:
        message = "the trigger's signing secrets are for its provider: clear them before changing it"
        raise Conflict("provider_has_secrets", message, field="provider")


def _checked(change: TriggerChange) -> TriggerChange:
    if change.label is not None:
        change = replace(change, label=checked_name(change.label, "label", required=False))
    problem = filters_problem(change.filters)
    if problem is not None:
        raise _bad("event_filters", problem)
    return change


def stored_filters(filters: Sequence[EventFilter]) -> str | None:
    """Return the filters as JSON for the trigger's row, or None when every event is wanted."""
    return msgspec.json.encode(filters).decode() if filters else None


def _bad(name: str, message: str) -> Invalid:
    return Invalid(f"invalid_{name}", message, field=name)
