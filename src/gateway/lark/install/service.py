"""Connecting a bot to an agent, and disconnecting it.

Every installation row is drafted here; its lease is written elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

import structlog

from gateway.channel.errors import PlatformRefused, PlatformThrottled, PlatformUnauthorized, PlatformUnavailable
from gateway.channel.installation import (
    AgentHome,
    AppHolder,
    BotInPlace,
    DroppedMessage,
    InstallationDraft,
    InstallationStore,
    InstallationView,
)
from gateway.errors import Conflict, Invalid, NotFound, StoreConflict, Unavailable
from gateway.ids import new_id
from gateway.keyring import KeyRing
from gateway.lark.api.client import BotIdentity, HttpClient, LarkClient, open_http_client
from gateway.lark.api.region import Region, open_base_url
from gateway.lark.chat.content import CHANNEL_TYPE
from gateway.lark.install.shown import detailed

_log = structlog.get_logger()

EventMode = Literal["socket", "http"]
EVENT_MODES: tuple[EventMode, ...] = ("socket", "http")

SECRET_LENGTH_MAX = 512
_APP_ID = re.compile(r"cli_[0-9a-zA-Z]{16,64}")
_SAVE_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class NewApp:
    """An app made by hand in the platform's console, for one agent.

    `installer_email` None means the workspace's owner. The encrypt key and the verification token come from the
    console. Events over HTTP need at least the token, because nothing else proves that the platform posted them.
    `replaces` is True if the app may take the place of another app that is the agent's live bot.
    """

    agent_id: UUID
    app_id: str
    app_secret: str = field(repr=False)
    region: str = Region.FEISHU.value
    event_mode: str = "socket"
    installer_email: str | None = None
    encrypt_key: str = field(default="", repr=False)
    verification_token: str = field(default="", repr=False)
    allow_bots: bool = False
    allow_mention_all: bool = False
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Installed:
    """The installation, and a warning for the operator ("" for none)."""

    installation: InstallationView
    warning: str = ""


Identify = Callable[[str, str, Region], Awaitable[BotIdentity]]
"""(app id, app secret, region) → the bot. Raises the PlatformError family."""


def identify_with(open_base_override: str | None = None, *, proxy_url: str | None = None) -> Identify:
    """Return an `Identify` that asks the platform, over a new connection for each call."""

    async def identify(app_id: str, app_secret: str, region: Region) -> BotIdentity:
        async with open_http_client(proxy_url=proxy_url, connections_max=1) as http:
            return await identify_over(http, open_base_override)(app_id, app_secret, region)

    return identify


def identify_over(http: HttpClient, open_base_override: str | None = None) -> Identify:
    """Return an `Identify` that asks the platform, over connections that the caller owns and shares."""

    async def identify(app_id: str, app_secret: str, region: Region) -> BotIdentity:
        return await LarkClient(app_id, app_secret, open_base_url(region, open_base_override), http).identify()

    return identify


class InstallationService:
    """Adds, lists and revokes installations.

    Secrets are sealed with `ring` for the id of their row; without a ring nothing can be added.
    """

    def __init__(self, store: InstallationStore, ring: KeyRing | None, identify: Identify) -> None:
        self._store = store
        self._ring = ring
        self._identify = identify

    async def add(self, app: NewApp) -> Installed:
        """Connect an app to an agent: a new installation, or new credentials for the one the agent has.

        An agent that had a revoked installation gets it back, with the people bound to it. If the platform cannot be
        reached, the app is stored unchecked, with a warning.

        Raises Invalid for bad input or credentials the platform does not accept, NotFound for an unknown agent, and
        Unavailable without a key ring. Raises Conflict for an archived agent, an app that belongs to another agent, or
        an agent with another app's live bot that `app` does not replace.
        """
        ring = self._require_ring()
        _check(app)
        home, installer = await self.installer_of(app.agent_id, app.installer_email)
        if not app.replaces:
            await self.require_no_bot(home.workspace_id, app.agent_id, home.name, app_id=app.app_id)
        bot, warning = await self._ask_platform(app)
        for _ in range(_SAVE_ATTEMPTS):
            installation = await self._save(app, home, installer, bot, ring)
            if isinstance(installation, BotInPlace):
                raise _agent_has_bot(app.agent_id, home.name, installation)
            if installation is not None:
                _log.info("lark_installation_added", installation_id=str(installation.id), app_id=app.app_id)
                return Installed(detailed(installation), warning)
        raise Conflict("installation_changed", "the agent's installation keeps changing; try again")

    async def find(self, installation_id: UUID, workspace_id: UUID | None = None) -> InstallationView:
        """Return an installation. Raises NotFound, also for another workspace's or another platform's."""
        found = await self._store.find(installation_id, workspace_id)
        if found is None or found.channel_type != CHANNEL_TYPE:
            raise _no_installation(installation_id)
        return detailed(found)

    async def revoke(self, installation_id: UUID, workspace_id: UUID | None = None) -> InstallationView:
        """Take a bot out of service and keep its row. Raises NotFound, also for another workspace's."""
        found = await self.find(installation_id, workspace_id)
        revoked = await self._store.revoke(installation_id, found.workspace_id)
        if revoked is None:
            raise _no_installation(installation_id)
        _log.info("lark_installation_revoked", installation_id=str(installation_id))
        return detailed(revoked)

    async def list(self, workspace_id: UUID | None = None) -> list[InstallationView]:
        """Return Lark installations, oldest first, also revoked ones; None lists those of every workspace.

        Installations of other platforms are left out.
        """
        views = await self._store.list(workspace_id)
        return [detailed(view) for view in views if view.channel_type == CHANNEL_TYPE]

    async def drops(self, installation_id: UUID, limit: int, offset: int) -> Sequence[DroppedMessage]:
        """Return the messages that a bot dropped, with the reasons, newest first."""
        return await self._store.drops(installation_id, limit, offset)

    async def installer_of(self, agent_id: UUID, email: str | None) -> tuple[AgentHome, UUID]:
        """Return the home of an agent, and the user who connects its bot.

        That user is the member with the e-mail address, or the workspace's owner without one. Raises DomainError as
        `add` does.
        """
        home = await self._find_home(agent_id)
        return home, await self._find_installer(home, email)

    async def identify(self, app_id: str, app_secret: str, region: Region) -> BotIdentity:
        """Ask the platform which bot an app has. Raises the PlatformError family."""
        return await self._identify(app_id, app_secret, region)

    async def draft(self, app: NewApp, installer: UUID, bot: BotIdentity) -> InstallationDraft:
        """Return the row to write for an app, its secrets sealed. Raises DomainError as `add` does."""
        ring = self._require_ring()
        home = await self._find_home(app.agent_id)
        return await self._draft(app, home, installer, bot, ring)

    async def require_no_bot(self, workspace_id: UUID, agent_id: UUID, agent_name: str, *, app_id: str = "") -> None:
        """Check that an agent has no live bot, or the bot of app `app_id`. Raises Conflict otherwise."""
        in_place = await self._store.bot_in_place(workspace_id, agent_id, CHANNEL_TYPE)
        if in_place is not None and in_place.app_id != app_id:
            raise _agent_has_bot(agent_id, agent_name, in_place)

    async def taken(self, app_id: str) -> Conflict | None:
        """Return the refusal that names the installation an app belongs to; None if it belongs to none."""
        holder = await self._store.app_holder(CHANNEL_TYPE, app_id)
        return None if holder is None else _app_taken(app_id, holder)

    def _require_ring(self) -> KeyRing:
        if self._ring is None:
            message = "secret_key is unset, so no app secret can be stored; `gateway keygen` prints one"
            raise Unavailable("secret_key_missing", message)
        return self._ring

    async def _find_home(self, agent_id: UUID) -> AgentHome:
        home = await self._store.agent_home(agent_id)
        if home is None:
            raise NotFound("agent_not_found", f"there is no agent {agent_id}", field="agent_id")
        if home.archived:
            raise Conflict("agent_archived", f"agent {agent_id} is archived", field="agent_id")
        return home

    async def _find_installer(self, home: AgentHome, email: str | None) -> UUID:
        if email is None:
            if home.owner_id is None:
                message = "the agent's workspace has no owner; name the installer"
                raise Invalid("no_installer", message, field="installer")
            return home.owner_id
        user_id = await self._store.member_by_email(home.workspace_id, email)
        if user_id is None:
            message = f"{email} is not a member of the agent's workspace"
            raise Invalid("not_a_member", message, field="installer")
        return user_id

    async def _ask_platform(self, app: NewApp) -> tuple[BotIdentity, str]:
        """Return the bot, and a warning if the platform could not be asked ("" if it could)."""
        try:
            return await self._identify(app.app_id, app.app_secret, Region.of(app.region)), ""
        except PlatformUnauthorized as error:
            message = f"the platform does not accept this app id and secret: {error}"
            raise Invalid("bad_credentials", message, field="app_secret") from error
        except (PlatformUnavailable, PlatformThrottled) as error:
            unchecked = "stored unchecked, and without the bot's identity until it connects"
            return BotIdentity(""), f"the platform could not be asked about this app ({error}); {unchecked}"
        except PlatformRefused as error:
            message = f"the platform does not say which bot this app has; is its bot enabled? {error}"
            raise Invalid("bot_info_failed", message, field="app_id") from error

    async def _save(
        self, app: NewApp, home: AgentHome, installer: UUID, bot: BotIdentity, ring: KeyRing
    ) -> InstallationView | BotInPlace | None:
        draft = await self._draft(app, home, installer, bot, ring)
        try:
            return await self._store.save(draft)
        except StoreConflict as error:
            taken = await self.taken(app.app_id)
            if taken is None:
                raise
            raise taken from error

    async def _draft(
        self, app: NewApp, home: AgentHome, installer: UUID, bot: BotIdentity, ring: KeyRing
    ) -> InstallationDraft:
        # The id must be known before anything is sealed, because the seal covers the id too.
        known = await self._store.id_of(home.workspace_id, app.agent_id, CHANNEL_TYPE)
        installation_id = known or new_id()
        return InstallationDraft(
            id=installation_id,
            workspace_id=home.workspace_id,
            agent_id=app.agent_id,
            channel_type=CHANNEL_TYPE,
            installer_user_id=installer,
            config=stored_config(app, bot, ring, installation_id),
            replaces=app.replaces,
        )


def stored_config(app: NewApp, bot: BotIdentity, ring: KeyRing, installation_id: UUID) -> dict[str, Any]:
    """Return the config column of an installation: secrets sealed, empty optional keys left out."""
    sealed = {
        f"{name}_encrypted": ring.seal_text(secret, owner=installation_id)
        for name, secret in (
            ("app_secret", app.app_secret),
            ("encrypt_key", app.encrypt_key),
            ("verification_token", app.verification_token),
        )
        if secret
    }
    optional = {
        "bot_open_id": bot.open_id,
        "bot_union_id": bot.union_id,
        "allow_bots": app.allow_bots,
        "allow_mention_all": app.allow_mention_all,
    }
    return {
        "app_id": app.app_id,
        "region": app.region,
        "event_mode": app.event_mode,
        **{name: value for name, value in optional.items() if value},
        **sealed,
    }


def _check(app: NewApp) -> None:
    if not _APP_ID.fullmatch(app.app_id):
        message = f"{app.app_id[:80]!r} is not an app id: cli_ and 16 or more letters and digits"
        raise Invalid("invalid_app_id", message, field="app_id")
    for name, secret, needed in (
        ("app_secret", app.app_secret, True),
        ("encrypt_key", app.encrypt_key, False),
        ("verification_token", app.verification_token, False),
    ):
        _check_secret(name, secret, needed=needed)
    _check_choice("region", app.region, [region.value for region in Region])
    _check_choice("event_mode", app.event_mode, EVENT_MODES)
    if app.event_mode == "http" and not app.verification_token:
        message = "event_mode http needs the verification_token of the app's Events & Callbacks page"
        raise Invalid("invalid_verification_token", message, field="verification_token")


def _check_secret(name: str, secret: str, *, needed: bool) -> None:
    """Check a secret. Raises Invalid, which never repeats the value."""
    if needed and not secret:
        raise Invalid(f"invalid_{name}", f"{name} is empty", field=name)
    if len(secret) > SECRET_LENGTH_MAX or not secret.isprintable() or secret != secret.strip():
        limit = f"at most {SECRET_LENGTH_MAX} printable characters without blanks around them"
        raise Invalid(f"invalid_{name}", f"{name} has {limit}", field=name)


def _check_choice(name: str, value: str, choices: list[str] | tuple[str, ...]) -> None:
    if value not in choices:
        raise Invalid(f"invalid_{name}", f"{name} {value!r} is not one of {', '.join(choices)}", field=name)


def _no_installation(installation_id: UUID) -> NotFound:
    return NotFound("installation_not_found", f"there is no installation {installation_id}")


def _agent_has_bot(agent_id: UUID, agent_name: str, bot: BotInPlace) -> Conflict:
    """Return the refusal for an agent with a live bot.

    It names that bot, and says what happens to its accounts and conversations: a caller who replaces it must know both.
    """
    message = (
        f"agent {agent_name or agent_id} has a bot already: app {bot.app_id}, installation {bot.id}. "
        "With `--replace` (over HTTP `replace: true`) the new app takes its place, and the present one stops at once. "
        f"Accounts linked to it ({bot.accounts}) must then be linked again: every app knows people by ids of its own. "
        f"Its conversations ({bot.conversations}) are kept: groups go on in them once the new bot is a member, "
        "direct chats begin anew"
    )
    return Conflict("agent_has_bot", message, field="agent_id", installation_id=str(bot.id), app_id=bot.app_id)


def _app_taken(app_id: str, holder: AppHolder) -> Conflict:
    if holder.dead:
        message = f"app {app_id} was revoked elsewhere a moment ago and its connection is closing; try again shortly"
        return Conflict("installation_closing", message, field="app_id")
    message = f"app {app_id} belongs to installation {holder.id} of agent {holder.agent_id}; revoke that one first"
    return Conflict("installation_conflict", message, field="app_id")
