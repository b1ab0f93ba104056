from __future__ import annotations

import structlog.testing

from gateway.config import Settings
from gateway.daemon.run import _warn_of_github


def test_settings_for_github_are_not_accepted_in_silence() -> None:
    with structlog.testing.capture_logs() as lines:
        _warn_of_github(Settings.model_validate({"github": {"app_id": 7, "webhook_secret": "not-a-real-secret"}}))
        _warn_of_github(Settings.model_validate({}))
    assert [(line["event"], line["keys"]) for line in lines] == [
        ("github_settings_ignored", ["github.app_id", "github.webhook_secret"])
    ]
