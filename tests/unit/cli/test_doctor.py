"""What the doctor says of a bot's link and of the key."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from gateway.channel.channel import ConnectionState
from gateway.channel.installation import DEGRADED, InstallationView
from gateway.cli.doctor import (
    certificate_state,
    describe_troubles,
    existing_ring,
    is_daemon_needed,
    judge_runtime,
    judge_secrets,
    key_state,
    proxy_state,
)
from gateway.cli.doctor_bots import WORDS, age, contradiction, describe, is_well
from gateway.cli.doctor_daemon import daemon_url, judge_report
from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.work.checkup import Link, RuntimeHealth, Troubles
from gateway.work.secrets import Opened, Trouble

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


def view(state: str, **fields: object) -> InstallationView:
    known = {
        "id": UUID(int=1), "workspace_id": UUID(int=2), "agent_id": UUID(int=3), "channel_type": "feishu",
        "app_id": "cli_x", "settings": {}, "status": "active",
        "installer_user_id": None, "installed_at": NOW, "state": state, "code": 0, "detail": "",
        "last_frame_at": None, "last_event_at": None, "pong_ms": None,
    }  # fmt: skip
    return InstallationView(**(known | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("state", ConnectionState)
def test_bot_is_well_where_it_hears_or_need_not(state: ConnectionState) -> None:
    assert is_well(view(state)) == (state in {ConnectionState.LIVE, ConnectionState.HTTP, ConnectionState.REVOKED})


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
    settings = Settings(lark={"proxy_url": "socks5://ann:fake-pass@own.example"})  # type: ignore[arg-type]
    assert proxy_state(settings, {}) == (True, "platforms are reached through socks5://own.example:1080")
    ok, words = proxy_state(Settings(), {"ALL_PROXY": "ftp://ann:fake-pass@proxy.example"}) or (True, "")
    assert not ok
    assert words.startswith("ALL_PROXY: ")
    assert "fake-pass" not in words


@pytest.mark.parametrize(
    ("bind", "public_url", "expected"),
    [
        ("127.0.0.1:8420", None, "http://127.0.0.1:8420"),
        ("0.0.0.0:8420", "https://gateway.example.test", "http://127.0.0.1:8420"),
        ("[::]:8420", None, "http://[::1]:8420"),
        ("box.example.test:8420", None, "http://box.example.test:8420"),
        ("fd://3", None, None),
        ("fd://3", "https://gateway.example.test", "https://gateway.example.test"),
        ("127.0.0.1:0", None, None),
    ],
)
def test_daemon_is_asked_where_the_configuration_says(bind: str, public_url: str | None, expected: str | None) -> None:
    http = {"bind": bind} | ({"public_url": public_url} if public_url else {})
    assert daemon_url(Settings.model_validate({"http": http})) == expected


def link(state: str | None, **fields: object) -> Link:
    known = {"id": UUID(int=1), "stored_state": state, "node": "n", "leased": False, "over_seconds": None}
    return Link(**(known | {"unheard_seconds": None} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (link(None), ""),
        (link("refused"), ""),
        (link("live", leased=True, unheard_seconds=12), ""),
        (link("live", over_seconds=301), "stale: 'live' was stored last, but its lease ran out 5 min ago"),
        (link("deaf"), "stale: 'deaf' was stored last, but nobody holds its lease"),
        (link("live", leased=True, unheard_seconds=901), "it is said to be live, but nothing came"),
    ],
)
def test_stored_state_that_cannot_be_true_is_said_to_be_stale(found: Link, expected: str) -> None:
    told = contradiction(found)
    assert told.startswith(expected) if expected else told == ""


def runtime(**fields: object) -> RuntimeHealth:
    known = {
        "id": UUID(int=1), "workspace": "acme", "name": "box", "last_heartbeat_at": NOW, "unheard_seconds": 200.0,
        "online": False, "waiting": 0, "running": 0, "oldest_waiting_seconds": None, "bots": 0, "agents": [],
    }  # fmt: skip
    return RuntimeHealth(**(known | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "ok", "words"),
    [
        (runtime(), True, "silent for 3 min (limit 2 min); no agent uses it; 0 waiting; start its worker"),
        (runtime(waiting=2, oldest_waiting_seconds=7200.0), False, "2 waiting, the oldest for 2 h"),
        (runtime(bots=1, agents=["A", "B"], unheard_seconds=None), False, "never heard of; agents: A, B; 0 waiting"),
        (runtime(online=True, waiting=3, running=1, oldest_waiting_seconds=5.0), True, "3 waiting, the oldest for 5 s"),
        (runtime(online=True, waiting=3, oldest_waiting_seconds=601.0), True, "raise --concurrency"),
        (runtime(id=None, agents=["A"]), False, "gateway admin agent set AGENT --runtime ID"),
    ],
)
def test_runtime_is_a_problem_when_somebody_may_wait_for_it_in_vain(found: RuntimeHealth, ok: bool, words: str) -> None:
    _, well, told = judge_runtime(found, 150)
    assert well is ok
    assert words in told


NOTHING = Troubles(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("views", "links", "runtimes", "troubles", "needed"),
    [
        ([], [], [], NOTHING, False),
        ([view("standby")], [link("standby")], [], NOTHING, True),
        ([view("live")], [link("live", leased=True)], [], NOTHING, False),
        ([view("revoked", status="revoked")], [], [], NOTHING, False),
        ([], [], [runtime(waiting=1)], NOTHING, True),
        ([], [], [runtime()], Troubles(0, 0, 0, 1), True),
    ],
)
def test_daemon_is_needed_where_something_is_to_be_done_that_nobody_does(
    views: list[InstallationView], links: list[Link], runtimes: list[RuntimeHealth], troubles: Troubles, needed: bool
) -> None:
    assert is_daemon_needed(views, {each.id: each for each in links}, runtimes, troubles) is needed


def test_secrets_that_do_not_open_are_named_and_counted() -> None:
    assert judge_secrets(Opened(0, [])) == (True, "none stored yet")
    troubles = [Trouble("scan", UUID(int=number), "device_code", "no key") for number in range(7)]
    ok, told = judge_secrets(Opened(9, troubles))
    assert not ok
    assert told.startswith(f"7 of 9 stored do not open: scan {UUID(int=0)}: device_code: no key; ")
    assert "; and 2 more; put the key that sealed them behind the others" in told


def test_looking_at_the_key_makes_none(tmp_path: Path) -> None:
    assert existing_ring(settings(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


def test_troubles_of_the_last_day_say_where_to_look() -> None:
    assert describe_troubles(NOTHING) == ""
    assert "2 runs failed: `gateway task list --status failed`" in describe_troubles(Troubles(0, 0, 2, 5))
    assert "3 messages were not delivered" in describe_troubles(Troubles(3, 1, 0, 0))


@pytest.mark.parametrize(
    ("status", "report", "well", "words"),
    [
        (200, {"status": "ok", "checks": {"database": "ok"}}, True, "runs at U and is ready"),
        (
            200,
            {"status": "degraded", "checks": {"database": "ok"}, "bots": {"live": 2, "deaf": 1, "standby": 0}},
            True,
            "runs at U and is ready, though degraded; bots: 2 live, 1 deaf",
        ),
        (
            503,
            {"status": "unavailable", "checks": {"database": "no answer within 2 s", "leases": "ok"}},
            False,
            "runs at U, but is not ready; database: no answer within 2 s; see its log",
        ),
        (503, "<html>", False, "runs at U, but is not ready; status 503; see its log"),
        (200, None, True, "runs at U and is ready"),
    ],
)
def test_daemon_is_believed_about_what_it_is_not_ready_for(status: int, report: object, well: bool, words: str) -> None:
    judged = judge_report("U", status, report)
    assert (judged.running, judged.well, judged.detail) == (True, well, words)
