"""What the doctor says of a bot's link and of the key."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from gateway.channel.channel import ConnectionState
from gateway.channel.installation import DEGRADED, InstallationView
from gateway.cli.doctor import HEALTHY_STATES, WORDS, age, certificate_state, describe, is_well, key_state, proxy_state
from gateway.config import Settings
from gateway.errors import ConfigError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = base64.b64encode(b"k" * 32).decode()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_age_is_told_in_its_largest_unit(seconds: float, words: str) -> None:
    assert age(NOW, NOW - timedelta(seconds=seconds)) == words


@pytest.mark.parametrize("state", list(ConnectionState))
def test_every_connection_state_has_words(state: str) -> None:
    assert state in WORDS


def test_healthy_states_are_the_ones_that_hear_or_need_not() -> None:
    assert {ConnectionState.LIVE, ConnectionState.HTTP, ConnectionState.REVOKED} == HEALTHY_STATES


def view(state: str, **fields: object) -> InstallationView:
    known = {
        "id": UUID(int=1), "workspace_id": UUID(int=2), "agent_id": UUID(int=3), "channel_type": "feishu",
        "app_id": "cli_x", "region": "feishu", "event_mode": "socket", "bot_open_id": "", "status": "active",
        "installer_user_id": None, "installed_at": NOW, "state": state, "code": 0, "detail": "",
        "last_frame_at": None, "last_event_at": None, "pong_ms": None,
    }  # fmt: skip
    return InstallationView(**(known | fields))  # type: ignore[arg-type]


def test_live_bot_is_described_with_its_ages() -> None:
    live = view("live", last_frame_at=NOW - timedelta(seconds=12), last_event_at=NOW - timedelta(hours=3), pong_ms=35.4)
    assert describe(live, NOW) == "live: it hears messages; last frame 12 s ago; last event 3 h ago; round trip 35 ms"


def test_degraded_bot_is_not_well_and_says_why() -> None:
    degraded = view("live", degraded=True)
    assert not is_well(degraded)
    assert is_well(view("live"))
    assert describe(degraded, NOW) == f"live: it hears messages; {DEGRADED}"
    assert degraded.shown_state == "live (degraded)"
    assert degraded.public()["connection"] == {
        "state": "live", "degraded": True, "code": 0, "detail": DEGRADED,
        "last_frame_at": None, "last_event_at": None, "pong_ms": None,
    }  # fmt: skip


def test_refused_bot_is_described_with_the_platforms_words() -> None:
    refused = view("refused", code=1000040350, detail="too many connections")
    told = describe(refused, NOW)
    assert told.startswith("refused by the platform; too many connections (1000040350); ")
    assert "`gateway lark add`" in told


def settings(tmp_path: Path, **values: object) -> Settings:
    return Settings.model_validate({"state_dir": tmp_path, **values})


def test_key_configured_is_judged(tmp_path: Path) -> None:
    assert key_state(settings(tmp_path, secret_key=KEY)) == (True, "configured")
    with pytest.raises(ConfigError, match="secret_key"):
        key_state(settings(tmp_path, secret_key=base64.b64encode(b"short").decode()))


def test_key_unset_beside_an_external_database_turns_lark_off(tmp_path: Path) -> None:
    assert key_state(settings(tmp_path, database_url="dbname=x")) == (True, "unset: Lark is off")


def test_key_of_the_embedded_database_is_read_from_its_file(tmp_path: Path) -> None:
    ok, words = key_state(settings(tmp_path))
    assert ok
    assert "not made yet" in words
    (tmp_path / "secret.key").write_text(KEY + "\n")
    assert key_state(settings(tmp_path)) == (True, f"in {tmp_path / 'secret.key'}")
    (tmp_path / "secret.key").write_text("half a ke")
    assert key_state(settings(tmp_path))[0] is False


def test_certificates_are_told_when_the_environment_names_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert certificate_state() is None
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert certificate_state() == (True, f"whoever {tmp_path} vouches for is believed to be a platform (SSL_CERT_DIR)")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    ok, words = certificate_state() or (True, "")
    assert not ok
    assert "missing.pem' is no file of certificates that can be read: No such file or directory" in words


def test_proxy_is_told_without_its_password_and_a_bad_one_as_what_it_is() -> None:
    assert proxy_state(Settings(), {}) is None
    assert proxy_state(Settings(), {"HTTPS_PROXY": "http://ann:fake-pass@proxy.example:3128"}) == (
        True,
        "platforms are reached through http://proxy.example:3128",
    )
    settings = Settings(lark={"proxy_url": "https://ann:fake-pass@own.example"})  # type: ignore[arg-type]
    assert proxy_state(settings, {}) == (True, "platforms are reached through https://own.example:443")
    ok, words = proxy_state(Settings(), {"ALL_PROXY": "socks5://ann:fake-pass@proxy.example"}) or (True, "")
    assert not ok
    assert words.startswith("ALL_PROXY: ")
    assert "fake-pass" not in words
