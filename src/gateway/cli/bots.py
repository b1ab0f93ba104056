"""A bot as commands show it: the same object that the API returns."""

from __future__ import annotations

from typing import Any

from gateway.channel.installation import InstallationView
from gateway.config import Settings
from gateway.lark.install import shown as lark

AGENT_HELP = "The agent that answers: an id, a unique name, or WORKSPACE/NAME."
REPLACE_HELP = "Put the app in the place of another one that is the agent's live bot, which then stops at once."


def shown(view: InstallationView, settings: Settings) -> dict[str, Any]:
    """Return the JSON object of `--json`; see `gateway.lark.install.shown`."""
    return lark.shown(view, settings.http.public_url)
