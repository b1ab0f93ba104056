"""A bot as commands show it: the same object that the API returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.channel.installation import InstallationView
    from gateway.config import Settings


REPLACE_HELP = "Put the app in the place of another one that is the agent's live bot, which then stops at once."


def shown(view: InstallationView, settings: Settings) -> dict[str, Any]:
    from gateway.lark.install import shown as lark

    return lark.shown(view, settings.http.public_url)
