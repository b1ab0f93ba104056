"""A bot as commands show it: the same object that the API returns."""

from __future__ import annotations

from typing import Any

from gateway.channel.installation import InstallationView
from gateway.channel.push import events_url
from gateway.config import Settings
from gateway.lark.api.region import console_url

REPLACE_HELP = "Put the app in the place of another one that is the agent's live bot, which then stops at once."


def shown(view: InstallationView, settings: Settings) -> dict[str, Any]:
    """Return an installation's public fields and the URL where its app is managed.

    For an installation in HTTP mode, the URL to which its events are posted is added.
    """
    links: dict[str, Any] = {"console_url": console_url(view.region, view.app_id)}
    if view.event_mode == "http":
        links["events_url"] = events_url(settings.http.public_url, view.id)
    return view.public() | links
