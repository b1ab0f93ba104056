"""The check of `gateway doctor` on the daemon: asks it whether it runs here, and whether it is ready."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import httpx2
import msgspec
import trio

from gateway.address import parse_bind, url_of
from gateway.config import Settings

ASK_SECONDS = 5.0
"""The time for one question to the daemon. The daemon's own checks take less."""
ANSWER_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Daemon:
    """The finding about the daemon. `running` is true if the program that answers is, or may be, the daemon."""

    running: bool
    well: bool
    detail: str


def daemon_url(settings: Settings) -> str | None:
    """Return the URL of this configuration's daemon, or None if the configuration does not say it."""
    bind = parse_bind(settings.http.bind)
    if bind.fd is not None or bind.port == 0:
        return settings.http.public_url
    return url_of(_reachable(bind.host), bind.port)


def _reachable(host: str) -> str:
    """Return the host to ask: the loopback for an unspecified address (0.0.0.0 or ::), which means all addresses."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


async def ask_daemon(url: str) -> Daemon:
    """Ask the daemon for its health and its readiness. Never raises, and takes at most twice `ASK_SECONDS`."""
    async with httpx2.AsyncClient(base_url=url, trust_env=False, follow_redirects=False, timeout=ASK_SECONDS) as http:
        try:
            alive = await _ask(http, "/healthz")
        except httpx2.ConnectError:
            return Daemon(False, False, f"nothing answers at {url}")
        except (httpx2.HTTPError, trio.TooSlowError) as error:
            reason = f"it does not answer within {ASK_SECONDS:g} s" if _is_slow(error) else type(error).__name__
            return Daemon(True, False, f"something listens at {url}, but {reason}; see its log, and restart it")
        if alive != (200, {"status": "ok"}):
            return Daemon(
                False, False, f"something else than a gateway answers at {url}; change http.bind, or stop that"
            )
        try:
            status, report = await _ask(http, "/readyz")
        except (httpx2.HTTPError, trio.TooSlowError) as error:
            return Daemon(True, False, f"runs at {url}, but does not say whether it is ready ({type(error).__name__})")
    return judge_report(url, status, report)


def judge_report(url: str, status: int, report: Any) -> Daemon:
    """Judge a daemon's report on itself: ready, ready with some bots not well, or not ready and why."""
    told = report if isinstance(report, dict) else {}
    checks, bots, state = told.get("checks"), told.get("bots"), told.get("status", "ok")
    notes = [f"{name}: {text}" for name, text in checks.items() if text != "ok"] if isinstance(checks, dict) else []
    if state != "ok" and isinstance(bots, dict):
        notes += [f"bots: {', '.join(f'{count} {name}' for name, count in bots.items() if count)}"] if bots else []
    if status != 200:
        notes = notes or [f"status {status}"]
        return Daemon(True, False, f"runs at {url}, but is not ready; {'; '.join(notes)}; see its log")
    ready = f"runs at {url} and is ready" + ("" if state == "ok" else f", though {state}")
    return Daemon(True, True, "; ".join([ready, *notes]))


async def _ask(http: httpx2.AsyncClient, path: str) -> tuple[int, Any]:
    """Return the status and the JSON of an answer; None for a body that is no JSON or is too long.

    Raises HTTPError or TooSlowError.
    """
    with trio.fail_after(ASK_SECONDS):
        async with http.stream("GET", path) as answer:
            body = b""
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > ANSWER_BYTES_MAX:
                    return answer.status_code, None
    try:
        return answer.status_code, msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return answer.status_code, None


def _is_slow(error: Exception) -> bool:
    return isinstance(error, trio.TooSlowError | httpx2.TimeoutException)
