"""The checks of `gateway doctor` on bots: their stored state, whether it can still be true, the platform's answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import trio

from gateway.channel.errors import PlatformError, PlatformRefused, PlatformThrottled, PlatformUnauthorized
from gateway.errors import GatewayError
from gateway.keyring import UnreadableSecret

if TYPE_CHECKING:
    from gateway.channel.installation import InstallationView
    from gateway.config import Settings
    from gateway.keyring import KeyRing
    from gateway.lark.api.client import HttpClient
    from gateway.postgres.pool import Pool
    from gateway.work.checkup import Link

HEALTHY_STATES = frozenset({"live", "http", "revoked"})
HELD_STATES = frozenset({"live", "http", "connecting", "deaf"})
"""States that can be true only while a process holds the bot's lease."""
UNHEARD_SECONDS_MAX = 900.0
"""A link without a frame for so long is not live: every platform pings more often."""
ASK_SECONDS = 4.0
"""The time for asking the platform about one bot."""
ASKED_AT_ONCE = 8

WORDS = {
    "live": "live: it hears messages",
    "http": "events arrive by HTTP",
    "revoked": "revoked",
    "connecting": "connecting: it does not hear messages yet",
    "deaf": "deaf: connected, but nothing arrives; it is being connected again",
    "refused": "refused by the platform",
    "standby": "nobody listens for it: is `gateway serve` running?",
    "unreadable_secret": "its secret does not open with the configured secret_key",
}

ADVICE = {
    "refused": "it is tried again ever more seldom, and at once when `gateway lark add` gives new credentials",
    "unreadable_secret": "put the old secret_key behind the new one, or give the app secret again: `gateway lark add`",
}

Ask = Callable[["InstallationView"], Awaitable[str]]
"""Asks the platform about a bot. Returns what is wrong and what to do, or "". Raises the PlatformError family."""


def is_well(view: InstallationView) -> bool:
    """True if a bot receives its messages and settles them, or is revoked."""
    return view.state in HEALTHY_STATES and not view.degraded


def describe(view: InstallationView, now: datetime) -> str:
    """Describe a bot's link: its state, the age of its last frame and event, and what the platform said."""
    parts = [WORDS.get(view.state, view.state)]
    if view.shown_detail:
        parts.append(f"{view.shown_detail} ({view.code})" if view.code else view.shown_detail)
    if view.last_frame_at is not None:
        parts.append(f"last frame {age(now, view.last_frame_at)} ago")
    if view.last_event_at is not None:
        parts.append(f"last event {age(now, view.last_event_at)} ago")
    if view.pong_ms is not None:
        parts.append(f"round trip {view.pong_ms:.0f} ms")
    if view.state in ADVICE:
        parts.append(ADVICE[view.state])
    return "; ".join(parts)


def contradiction(link: Link | None) -> str:
    """Return why the stored state of a link cannot be true any more; "" if it can be."""
    if link is None or link.stored_state not in HELD_STATES:
        return ""
    if not link.leased:
        over = "" if link.over_seconds is None else f" ran out {span(link.over_seconds)} ago"
        lease = f"its lease{over}" if over else "nobody holds its lease"
        return f"stale: {link.stored_state!r} was stored last, but {lease}; start `gateway serve`, or read its log"
    if link.stored_state == "live" and (link.unheard_seconds or 0.0) > UNHEARD_SECONDS_MAX:
        return "it is said to be live, but nothing came over its connection for too long; restart `gateway serve`"
    return ""


async def ask_all(views: Sequence[InstallationView], ask: Ask, answers: dict[UUID, str]) -> None:
    """Ask the platform about each bot, a few at a time, and put its answers into `answers`; "" means no problem.

    Never raises. After a cancellation `answers` holds those that had arrived by then.
    """
    limiter = trio.CapacityLimiter(ASKED_AT_ONCE)

    async def put(view: InstallationView) -> None:
        async with limiter:
            answers[view.id] = await _ask_one(view, ask)

    async with trio.open_nursery() as nursery:
        for view in views:
            nursery.start_soon(put, view)


async def _ask_one(view: InstallationView, ask: Ask) -> str:
    try:
        with trio.fail_after(ASK_SECONDS):
            return await ask(view)
    except trio.TooSlowError:
        return f"the platform did not answer within {ASK_SECONDS:g} s; is it reachable from here?"
    except PlatformUnauthorized as error:
        return f"the platform does not accept its app id and secret ({error}); give the new secret: `gateway lark add`"
    except PlatformThrottled:
        return ""
    except PlatformRefused as error:
        return f"the platform does not say which bot it is ({error}); enable the bot in the developer console"
    except PlatformError as error:
        return f"the platform cannot be asked from here ({error}); is a proxy missing? see lark.proxy_url"
    except UnreadableSecret as error:
        return f"{error}; put the key that sealed it behind the others, or give the secret again: `gateway lark add`"
    except GatewayError as error:
        return f"the platform could not be asked: {error}"


def ask_lark(settings: Settings, pool: Pool, ring: KeyRing | None, http: HttpClient) -> Ask:
    """Return a function that asks Lark or Feishu about a bot, with the bot's stored credentials."""
    from gateway.keyring import open_config
    from gateway.lark.api.client import LarkClient
    from gateway.lark.api.region import Region, open_base_url
    from gateway.postgres.installation_store import PostgresInstallationStore

    store = PostgresInstallationStore(pool)

    async def ask(view: InstallationView) -> str:
        stored = await store.stored(view.id)
        if stored is None or stored.revoked:
            return ""
        config = open_config(stored.config, ring, view.id)
        if not config.get("app_secret"):
            return "it has no app secret; give it one: `gateway lark add`"
        base_url = open_base_url(Region.of(config.get("region")), settings.lark.open_base_url)
        bot = await LarkClient(view.app_id, config["app_secret"], base_url, http).bot_info()
        if config.get("bot_open_id") and bot.open_id != config["bot_open_id"]:
            return "the platform says that the app has another bot now; connect it again: `gateway lark add`"
        return ""

    return ask


def age(now: datetime, then: datetime) -> str:
    """Return the time between two moments, in its largest unit."""
    return span((now - then).total_seconds())


def span(seconds: float) -> str:
    """Return a duration in its largest unit."""
    whole = max(0, int(seconds))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
