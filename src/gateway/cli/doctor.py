"""`gateway doctor`: what works and what does not, in words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from gateway.channel.push import where_to_post
from gateway.cli.database import open_conninfo
from gateway.cli.output import config_option, json_option, print_json
from gateway.config import Settings, load_settings
from gateway.errors import ConfigError, GatewayError

if TYPE_CHECKING:
    from gateway.channel.installation import InstallationView

HEALTHY_STATES = frozenset({"live", "http", "revoked"})

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


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


@dataclass(slots=True)
class Examination:
    """Everything found. It is well when every finding is."""

    checks: list[Finding] = field(default_factory=list)
    installations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.checks)

    def note(self, name: str, ok: bool, detail: str) -> None:
        self.checks.append(Finding(name, ok, detail))


@click.command()
@config_option
@json_option
@click.pass_context
def doctor(context: click.Context, config: Path | None, as_json: bool) -> None:
    """Say what works and what does not, and exit 1 if something does not."""
    found = trio.run(examine, load_settings(config))
    if as_json:
        print_json({"ok": found.ok, "checks": found.checks, "installations": found.installations})
    else:
        for finding in found.checks:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.detail}")
    context.exit(0 if found.ok else 1)


async def examine(settings: Settings) -> Examination:
    """Look at everything that can be looked at from here. Only a database that cannot be reached ends it early."""
    found = Examination()
    found.note("configuration", True, "every key is known and valid")
    found.note("secret_key", *key_state(settings))
    if (proxy := proxy_state(settings, os.environ)) is not None:
        found.note("proxy", *proxy)
    if (certificates := certificate_state()) is not None:
        found.note("certificates", *certificates)
    try:
        async with open_conninfo(settings) as conninfo:
            await _examine_database(conninfo, settings, found)
    except GatewayError as error:
        found.note("database", False, str(error))
    return found


async def _examine_database(conninfo: str, settings: Settings, found: Examination) -> None:
    from gateway.postgres.installation_store import PostgresInstallationStore
    from gateway.postgres.migrate import pending
    from gateway.postgres.pool import open_pool

    waiting = await pending(conninfo)
    found.note("database", True, "embedded, reachable" if settings.embedded else "reachable")
    if waiting:
        found.note("migrations", False, f"pending: {', '.join(waiting)}; run `gateway migrate up`")
        return
    found.note("migrations", True, "current")
    timeout = settings.limits.database_connect_timeout_seconds
    async with open_pool(conninfo, size_max=1, connect_timeout_seconds=timeout) as pool:
        views = await PostgresInstallationStore(pool).list()
    now = datetime.now(UTC)
    found.installations = [view.public() for view in views]
    if not views:
        found.note("bots", True, "none yet: `gateway lark install` connects one")
    for view in views:
        found.note(f"bot {view.app_id}", is_well(view), describe(view, now))
        if view.event_mode == "http" and view.status == "active":
            url = settings.http.public_url
            found.note(f"events of bot {view.app_id}", True, where_to_post(url, view.id))


def key_state(settings: Settings) -> tuple[bool, str]:
    """Whether stored secrets can be opened, and why not. Raises ConfigError for a configured key that is none."""
    from gateway.keyring import KeyRing

    if settings.secret_key is not None:
        KeyRing.parse(settings.secret_key.get_secret_value())
        return True, "configured"
    if not settings.embedded:
        return True, "unset: Lark is off"
    path = settings.state_dir / "secret.key"
    try:
        KeyRing.parse(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return True, f"not made yet: the first start writes {path}"
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        return False, f"{path} cannot be used: {error}"
    return True, f"in {path}"


def proxy_state(settings: Settings, environ: Mapping[str, str]) -> tuple[bool, str] | None:
    """Through which proxy platforms are reached, None when directly; credentials are not shown."""
    from gateway.lark.proxy import Proxies

    secret = settings.lark.proxy_url
    try:
        known = Proxies.of(secret.get_secret_value() if secret else None, environ).known
    except ConfigError as error:
        return False, str(error)
    return (True, f"platforms are reached through {', '.join(map(str, known))}") if known else None


def certificate_state() -> tuple[bool, str] | None:
    """Who vouches for platforms, None when that is left to this machine's own authorities."""
    from gateway.lark.client import trusted_context

    try:
        trusted_context()
    except ConfigError as error:
        return False, str(error)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):  # in this order: the first that is set is the one that counts
        if path := os.environ.get(name):
            return True, f"whoever {path} vouches for is believed to be a platform ({name})"
    return None


def is_well(view: InstallationView) -> bool:
    """Whether a bot hears what it is to hear, and settles it."""
    return view.state in HEALTHY_STATES and not view.degraded


def describe(view: InstallationView, now: datetime) -> str:
    """A bot's link in words: what it is, since when nothing was heard, and what the platform said."""
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


def age(now: datetime, then: datetime) -> str:
    """How long ago, in its largest unit."""
    seconds = max(0, int((now - then).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
