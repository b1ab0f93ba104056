"""The public view of a Lark bot: its details in lists, its links, and the address for its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from gateway.channel.installation import InstallationView
from gateway.lark.api.region import Region, console_url


def details(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what lists show of a bot beside what every bot has. Rows without a region belong to Feishu, the first."""
    return {
        "region": str(settings.get("region") or Region.FEISHU),
        "event_mode": str(settings.get("event_mode", "socket")),
        "bot_open_id": str(settings.get("bot_open_id", "")),
    }


def detailed(view: InstallationView) -> InstallationView:
    return replace(view, details=details(view.settings))


def shown(view: InstallationView, public_url: str | None) -> dict[str, Any]:
    """Return the JSON object of the API and of `--json`: a detailed view, and the URL where its app is managed.

    For a bot in HTTP mode, the URL to which its events are posted is added.
    """
    links: dict[str, Any] = {"console_url": console_url(view.details["region"], view.app_id)}
    if _in_http_mode(view):
        links["events_url"] = events_url(public_url, view.id)
    return view.public() | links


def takes_posts(view: InstallationView) -> bool:
    """True for a live bot whose events are posted. An operator has to enter its URL in the platform's console."""
    return _in_http_mode(view) and view.status == "active"


def events_url(public_url: str | None, installation_id: UUID) -> str | None:
    """Return the request URL that an operator enters in the platform's console; None without a `public_url`."""
    return None if public_url is None else f"{public_url}/api/webhooks/lark/{installation_id}"


def where_to_post(public_url: str | None, installation_id: UUID) -> str:
    """Return a sentence for an operator with the request URL, or with the reason that it is unknown."""
    url = events_url(public_url, installation_id)
    if url is None:
        return "http.public_url is unset, so nobody can say which request URL the platform's console needs"
    return f"the request URL for the platform's console is {url}"


def _in_http_mode(view: InstallationView) -> bool:
    return view.details.get("event_mode") == "http"
