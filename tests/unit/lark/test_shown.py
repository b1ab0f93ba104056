"""What lists and objects show of a bot beside what every bot has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from gateway.channel.installation import InstallationView
from gateway.daemon.platforms import detailed
from gateway.lark.install.shown import details, shown, takes_posts, where_to_post

BOT = UUID(int=1)


def view(channel_type: str = "feishu", *, status: str = "active", **settings: Any) -> InstallationView:
    stored = InstallationView(
        id=BOT, workspace_id=UUID(int=2), agent_id=UUID(int=3), channel_type=channel_type, app_id="cli_x",
        settings=settings, status=status, installer_user_id=None, installed_at=datetime(2026, 1, 1, tzinfo=UTC),
        state="live", code=0, detail="", last_frame_at=None, last_event_at=None, pong_ms=None,
    )  # fmt: skip
    return detailed(stored)


def test_details_of_a_bare_row_are_those_of_the_first_region_and_mode() -> None:
    assert details({}) == {"region": "feishu", "event_mode": "socket", "bot_open_id": ""}
    assert details({"region": ""})["region"] == "feishu"


def test_object_of_a_bot_holds_its_details_between_what_every_bot_has() -> None:
    found = shown(
        view(region="lark", bot_open_id="ou_bot", bot_union_id="on_bot", allow_bots=True), "https://gw.example"
    )
    assert {name: value for name, value in found.items() if name not in {"connection", "installed_at"}} == {
        "id": BOT, "workspace_id": UUID(int=2), "agent_id": UUID(int=3), "app_id": "cli_x", "region": "lark",
        "event_mode": "socket", "bot_open_id": "ou_bot", "status": "active", "installer_user_id": None,
        "console_url": "https://open.larksuite.com/app/cli_x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("public_url", "url"), [(None, None), ("https://gw.example", "https://gw.example/api/webhooks/lark/")]
)
def test_bot_whose_events_are_posted_says_where(public_url: str | None, url: str | None) -> None:
    posted = view(event_mode="http")
    assert shown(posted, public_url)["events_url"] == (None if url is None else f"{url}{BOT}")
    assert ("http.public_url is unset" in where_to_post(public_url, BOT)) is (url is None)
    assert takes_posts(posted)
    assert not takes_posts(view(event_mode="http", status="revoked"))
    assert not takes_posts(view())


def test_bot_of_an_unknown_platform_has_no_details() -> None:
    stranger = view("toy", region="north", event_mode="http")
    assert stranger.details == {}
    assert not takes_posts(stranger)
    assert "region" not in stranger.public()
