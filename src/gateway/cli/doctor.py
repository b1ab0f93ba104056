"""`gateway doctor`: says in words what works and what does not. It tries each thing that it can try from here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import trio

from gateway.channel.installation import InstallationView
from gateway.cli.doctor_bots import ask_all, ask_lark, contradiction, describe, is_well, span
from gateway.cli.doctor_daemon import ask_daemon, daemon_url
from gateway.cli.output import config_option, json_option, plain, print_json
from gateway.config import Settings, load_settings
from gateway.daemon.checkup import OpenCheckup, describe_way, open_checkup
from gateway.daemon.database import DatabaseAddress, open_address
from gateway.daemon.platforms import detailed, open_platform_client
from gateway.errors import ConfigError, GatewayError
from gateway.keyring import KeyRing
from gateway.lark.api.client import trusted_context
from gateway.lark.api.proxy import Proxies
from gateway.lark.chat.content import CHANNEL_TYPE
from gateway.lark.install.shown import takes_posts, where_to_post
from gateway.postgres.migrate import pending
from gateway.work.checkup import OVERDUE_SECONDS, Link, RuntimeHealth, Troubles
from gateway.work.secrets import Opened

DOCTOR_SECONDS = 20.0
"""The time for the whole examination. The command answers by then, even if parts hang."""
PLATFORM_SECONDS = 8.0
"""The time for asking the platform about all bots together."""
NAMED_MAX = 5
"""The most items that one finding names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `detail` also says what to do, if something is to be done."""

    name: str
    ok: bool
    detail: str


@dataclass(slots=True)
class Examination:
    """All findings. `looking_at` names the check that was begun last."""

    checks: list[Finding] = field(default_factory=list)
    installations: list[dict[str, Any]] = field(default_factory=list)
    runtimes: list[RuntimeHealth] = field(default_factory=list)
    looking_at: str = "the configuration"

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
        print_json(
            {
                "ok": found.ok,
                "checks": found.checks,
                "installations": found.installations,
                "runtimes": found.runtimes,
            }
        )
    else:
        for finding in found.checks:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {plain(finding.name)}: {plain(finding.detail)}")
    context.exit(0 if found.ok else 1)


async def examine(settings: Settings, *, seconds: float = DOCTOR_SECONDS) -> Examination:
    """Check everything that can be checked from here, within `seconds`.

    An unreachable database ends the examination early. Raises ConfigError if the configured secret_key is malformed.
    """
    found = Examination()
    found.note("configuration", True, "every key is known and valid")
    found.note("secret_key", *key_state(settings))
    if (proxy := proxy_state(settings, os.environ)) is not None:
        found.note("proxy", *proxy)
    if (certificates := certificate_state()) is not None:
        found.note("certificates", *certificates)
    with trio.move_on_after(seconds) as scope:
        await _Doctor(settings, found).look_at_everything()
    if scope.cancelled_caught:
        found.note("doctor", False, f"not finished within {seconds:g} s, while looking at {found.looking_at}")
    return found


@dataclass(frozen=True, slots=True)
class _Doctor:
    """Makes one check after the other, and notes the findings."""

    settings: Settings
    found: Examination

    async def look_at_everything(self) -> None:
        self.found.looking_at = "the database"
        try:
            async with open_address(self.settings, attach=True) as address:
                await self._look_at_database(address)
        except GatewayError as error:
            about = self.found.looking_at.removeprefix("the ")
            self.found.note(about, False, str(error))
            if about == "database":
                await self._look_at_daemon(needed=None)

    async def _look_at_database(self, address: DatabaseAddress) -> None:
        waiting = await pending(address.for_sessions)
        self.found.note("database", True, await describe_way(address, embedded=self.settings.embedded))
        if waiting:
            self.found.note("migrations", False, f"pending: {', '.join(waiting)}; run `gateway migrate up`")
            await self._look_at_daemon(needed=None)
            return
        self.found.note("migrations", True, "current")
        async with open_checkup(self.settings, address) as checkup:
            await self._look_at_contents(checkup)

    async def _look_at_contents(self, checkup: OpenCheckup) -> None:
        found, silent = self.found, self.settings.limits.runtime_silence_seconds
        views = [detailed(view) for view in await checkup.installations.list()]
        links = {link.id: link for link in await checkup.work.links()}
        found.runtimes, troubles = await checkup.work.runtimes(), await checkup.work.troubles()
        found.installations = [view.public() for view in views]
        await self._look_at_daemon(needed=is_daemon_needed(views, links, found.runtimes, troubles))
        found.looking_at = "the stored secrets"
        ring = existing_ring(self.settings)
        found.note("secrets", *judge_secrets(await checkup.open_stored_secrets(ring)))
        answers = await self._ask_platform(checkup, ring, views)
        self._judge_bots(views, links, answers)
        for runtime in found.runtimes:
            found.note(*judge_runtime(runtime, silent))
        if told := describe_troubles(troubles):
            found.note("last day", True, told)

    async def _look_at_daemon(self, *, needed: bool | None) -> None:
        """Check the daemon. `needed` is true if work waits that no daemon does, and None if that is unknown."""
        self.found.looking_at = "the daemon"
        url = daemon_url(self.settings)
        if url is None:
            bind = self.settings.http.bind
            told = f"cannot be asked: http.bind {bind} does not say where it is; set http.public_url"
            self.found.note("daemon", not needed, told)
            return
        daemon = await ask_daemon(url)
        if not daemon.running:
            advice = (
                "start `gateway serve`" if needed else "`gateway serve` starts it, if it should run on this machine"
            )
            self.found.note("daemon", not needed, f"{daemon.detail}; {advice}")
        else:
            self.found.note("daemon", daemon.well, daemon.detail)

    async def _ask_platform(
        self, checkup: OpenCheckup, ring: KeyRing | None, views: Sequence[InstallationView]
    ) -> Mapping[UUID, str]:
        """Return the platform's answer about each active bot that there was time to ask about; see `ask_all`."""
        self.found.looking_at = "the platform"
        active = [view for view in views if view.status == "active" and view.channel_type == CHANNEL_TYPE]
        answers: dict[UUID, str] = {}
        with trio.move_on_after(PLATFORM_SECONDS):
            try:
                async with open_platform_client(self.settings) as http:
                    await ask_all(active, ask_lark(self.settings, checkup.installations, ring, http), answers)
            except ConfigError:
                return {}  # An unusable proxy or unusable certificates have a finding of their own.
        if late := len(active) - len(answers):
            self.found.note("platform", True, f"{late} of {len(active)} bots were not asked about: there was no time")
        return answers

    def _judge_bots(
        self, views: Sequence[InstallationView], links: Mapping[UUID, Link], answers: Mapping[UUID, str]
    ) -> None:
        if not views:
            self.found.note("bots", True, "none yet: `gateway lark install` connects one")
        now = datetime.now(UTC)
        for view in views:
            self.found.note(f"bot {view.app_id}", *judge_bot(view, now, links.get(view.id), answers.get(view.id)))
            if takes_posts(view):
                url = self.settings.http.public_url
                self.found.note(f"events of bot {view.app_id}", True, where_to_post(url, view.id))


def judge_bot(view: InstallationView, now: datetime, link: Link | None, answer: str | None) -> tuple[bool, str]:
    """Return whether a bot works, and a text about it. `answer` is the platform's; None if it was not asked."""
    if view.status != "active":
        return True, describe(view, now)
    parts = [contradiction(link), describe(view, now)]
    if answer == "":
        parts.append("the platform accepts its secret")
    elif answer is not None and view.state != "unreadable_secret":  # that state says the same
        parts.append(answer)
    ok = is_well(view) and not parts[0] and not answer
    return ok, "; ".join(part for part in parts if part)


def judge_runtime(runtime: RuntimeHealth, silent_seconds: float) -> tuple[str, bool, str]:
    """Return a runtime's finding: its name, whether no work waits for it in vain, and a text about it."""
    work = describe_work(runtime)
    agents = f"agents: {', '.join(runtime.agents)}" if runtime.agents else "no agent uses it"
    if runtime.id is None:
        told = f"{agents}; {work}; give them one: `gateway admin agent set AGENT --runtime ID`"
        return f"agents of {runtime.workspace} without a runtime", False, told
    name = f"runtime {runtime.workspace}/{runtime.name}"
    if runtime.online:
        late = (runtime.oldest_waiting_seconds or 0.0) > OVERDUE_SECONDS
        advice = "; its workers are busy: raise --concurrency, or start another" if late else ""
        return name, True, f"online, heard of {span(runtime.unheard_seconds or 0.0)} ago; {agents}; {work}{advice}"
    heard = (
        "never heard of"
        if runtime.unheard_seconds is None
        else f"silent for {span(runtime.unheard_seconds)} (limit {span(silent_seconds)})"
    )
    return name, not runtime.needed, f"{heard}; {agents}; {work}; start its worker: `gateway agent run --server URL`"


def describe_work(runtime: RuntimeHealth) -> str:
    waiting = f"{runtime.waiting} waiting"
    if runtime.oldest_waiting_seconds is not None:
        waiting += f", the oldest for {span(runtime.oldest_waiting_seconds)}"
    return f"{waiting}; {runtime.running} running" if runtime.running else waiting


def describe_troubles(troubles: Troubles) -> str:
    """Return a text about failures of the last day that people may have missed; "" if there were none."""
    parts = []
    if troubles.failed_runs:
        parts.append(f"{troubles.failed_runs} runs failed: `gateway task list --status failed`")
    if troubles.refused or troubles.unknown:
        words = f"{troubles.refused} messages were not delivered, of {troubles.unknown} nobody knows"
        parts.append(f"{words}: `gateway task show TASK` tells why")
    return "; ".join(parts)


def is_daemon_needed(
    views: Sequence[InstallationView], links: Mapping[UUID, Link], runtimes: Sequence[RuntimeHealth], troubles: Troubles
) -> bool:
    """True if a daemon should run and none shows signs of it.

    If another process holds the leases of all active bots, a daemon runs on another machine.
    """
    active = [view for view in views if view.status == "active"]
    if active:
        return not all(view.id in links and links[view.id].leased for view in active)
    return troubles.triggers > 0 or any(runtime.waiting for runtime in runtimes)


def judge_secrets(opened: Opened) -> tuple[bool, str]:
    """Return whether every stored secret opens, and a text that names those that do not."""
    if not opened.troubles:
        return True, f"{opened.total} stored, all of them open" if opened.total else "none stored yet"
    named = [f"{each.kind} {each.owner_id}: {each.name}: {each.reason}" for each in opened.troubles[:NAMED_MAX]]
    if len(opened.troubles) > NAMED_MAX:
        named.append(f"and {len(opened.troubles) - NAMED_MAX} more")
    advice = "put the key that sealed them behind the others in secret_key, or give the secrets again"
    return False, f"{len(opened.troubles)} of {opened.total} stored do not open: {'; '.join(named)}; {advice}"


def existing_ring(settings: Settings) -> KeyRing | None:
    """Return the existing keys, or None; no key is made. Raises ConfigError if the configured key is malformed."""
    if settings.secret_key is not None:
        return KeyRing.parse(settings.secret_key.get_secret_value())
    if not settings.embedded:
        return None
    try:
        return KeyRing.parse((settings.state_dir / "secret.key").read_text(encoding="ascii").strip())
    except (OSError, UnicodeDecodeError, ConfigError):
        return None  # The finding of `key_state` says what is wrong with the file.


def key_state(settings: Settings) -> tuple[bool, str]:
    """Return whether there is a usable secret_key, and a text about it.

    A key that is merely unset or not made yet is no failure. Raises ConfigError if the configured key is malformed.
    """
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
    """Return a finding about the proxy to platforms; None if they are reached directly. Credentials are not shown."""
    secret = settings.lark.proxy_url
    try:
        known = Proxies.of(secret.get_secret_value() if secret else None, environ).known
    except ConfigError as error:
        return False, str(error)
    return (True, f"platforms are reached through {', '.join(map(str, known))}") if known else None


def certificate_state() -> tuple[bool, str] | None:
    """Return a finding about configured certificate authorities; None if the machine's own are used."""
    try:
        trusted_context()
    except ConfigError as error:
        return False, str(error)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):  # in this order, because the first one that is set counts
        if path := os.environ.get(name):
            return True, f"whoever {path} vouches for is believed to be a platform ({name})"
    return None
