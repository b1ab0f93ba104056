"""Settings: sources, their order, and every refusal naming its key."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings, known_keys, load_settings, variable_of
from gateway.errors import ConfigError

Load = Callable[..., Settings]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("GATEWAY_") or name in {"STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "XDG_STATE_HOME"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing here"))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Load settings from any mix of sources."""

    def load(
        toml: str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        credentials: Mapping[str, str] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> Settings:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        if credentials is not None:
            directory = tmp_path / "credentials"
            directory.mkdir(exist_ok=True)
            for name, value in credentials.items():
                (directory / name).write_text(value)
            monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
        if toml is None:
            return load_settings(None, flags)
        path = tmp_path / "config.toml"
        path.write_text(toml)
        return load_settings(path, flags)

    return load


def refusal(load: Load, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_settings_without_sources_have_the_documented_defaults(load: Load) -> None:
    settings = load()
    assert settings.database_url is None
    assert settings.embedded
    assert settings.secret_key is None
    assert settings.http.bind == "127.0.0.1:8420"
    assert settings.http.public_url is None
    assert settings.http.trusted_proxies == ()
    assert settings.metrics.bind is None
    hub = settings.hub
    assert (hub.lease_ttl_seconds, hub.renew_seconds, hub.poll_seconds, hub.expiry_margin_seconds) == (15, 4, 4, 2)
    assert (hub.reply_timeout_seconds, hub.stale_after_seconds, hub.batch_window_seconds) == (2.5, 600, 3)
    assert settings.webhooks.per_token_per_minute == 60
    assert settings.webhooks.per_ip_per_minute == 30
    assert settings.webhooks.body_bytes_max == 262144
    assert settings.log.format is None


def test_keys_of_the_contract_are_all_known() -> None:
    documented = {
        "state_dir", "database_url", "secret_key", "http.bind", "http.public_url", "http.trusted_proxies",
        "database_direct_url",
        "metrics.bind", "lark.open_base_url", "lark.accounts_base_url", "lark.proxy_url", "hub.lease_ttl_seconds",
        "hub.renew_seconds", "hub.poll_seconds", "hub.expiry_margin_seconds", "hub.reply_timeout_seconds",
        "hub.stale_after_seconds", "hub.batch_window_seconds", "github.app_slug", "github.webhook_secret",
        "github.app_id", "github.private_key", "github.api_base_url", "webhooks.per_token_per_minute",
        "webhooks.per_ip_per_minute", "webhooks.body_bytes_max", "log.format",
    }  # fmt: skip
    assert documented <= known_keys().keys()
    assert {key for key, secret in known_keys().items() if secret} == {
        "database_url", "database_direct_url", "secret_key", "lark.proxy_url",
        "github.webhook_secret", "github.private_key",
    }  # fmt: skip


def test_variable_names_nest_with_two_underscores() -> None:
    assert variable_of("state_dir") == "GATEWAY_STATE_DIR"
    assert variable_of("http.trusted_proxies") == "GATEWAY_HTTP__TRUSTED_PROXIES"


def test_sources_are_ranked_flags_environment_file_credentials(load: Load) -> None:
    toml = '[http]\nbind = "127.0.0.1:3"\n[github]\nwebhook_secret = "fake-from-file"\n[log]\nformat = "json"\n'
    env = {"GATEWAY_HTTP__BIND": "127.0.0.1:2", "GATEWAY_HTTP__PUBLIC_URL": "https://env.example"}
    credentials = {"github.webhook_secret": "fake-credential\n", "secret_key": "fake-key\n"}
    settings = load(toml, env=env, credentials=credentials, flags={"http.bind": "127.0.0.1:1", "metrics.bind": None})
    assert settings.http.bind == "127.0.0.1:1"
    assert settings.http.public_url == "https://env.example"
    assert settings.log.format == "json"
    assert settings.github.webhook_secret is not None
    assert settings.github.webhook_secret.get_secret_value() == "fake-from-file"
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == "fake-key"


def test_file_of_the_xdg_directory_is_read_without_config_option(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "xdg" / "gateway").mkdir(parents=True)
    (tmp_path / "xdg" / "gateway" / "config.toml").write_text('[log]\nformat = "console"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert load().log.format == "console"


def test_state_dir_follows_systemd_then_root_then_xdg(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load().state_dir == Path("/var/lib/gateway")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/fake/state")
    assert load().state_dir == Path("/home/fake/state/gateway")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/fake")
    assert load().state_dir == Path("/home/fake/.local/state/gateway")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    assert load().state_dir == Path("/var/lib/one")


def test_state_dir_relative_is_made_absolute(load: Load) -> None:
    assert load(env={"GATEWAY_STATE_DIR": "here"}).state_dir == Path.cwd() / "here"


def test_direct_url_without_the_url_it_stands_beside_is_refused(load: Load) -> None:
    direct = 'database_direct_url = "host=h password=hidden"'
    words = "database_direct_url: is set without database_url; set database_url to the pooler's address"
    assert refusal(load, direct) == words
    settings = load(f'database_url = "host=pooler"\n{direct}')
    assert settings.database_direct_url is not None
    assert not settings.embedded


def test_direct_url_is_refused_for_its_own_mistakes_alone(load: Load) -> None:
    assert refusal(load, 'database_url = ""\ndatabase_direct_url = "nothing"') == (
        "database_url: is empty; remove the key to leave it unset;"
        " database_direct_url: is neither a postgresql:// URI nor a list of key=value pairs"
    )


def test_trusted_proxies_comma_list_and_toml_array_are_the_same(load: Load) -> None:
    expected = (ip_network("10.0.0.0/8"), ip_network("192.0.2.1/32"))
    assert load('[http]\ntrusted_proxies = ["10.0.0.0/8", "192.0.2.1"]').http.trusted_proxies == expected
    env = {"GATEWAY_HTTP__TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.1"}
    assert load(env=env).http.trusted_proxies == expected


def test_lease_ttl_alone_derives_the_other_timings(load: Load) -> None:
    hub = load(env={"GATEWAY_HUB__LEASE_TTL_SECONDS": "30"}).hub
    assert (hub.renew_seconds, hub.poll_seconds, hub.expiry_margin_seconds) == (10, 5, 3)


def test_lease_ttl_with_another_timing_derives_nothing(load: Load) -> None:
    hub = load("[hub]\nlease_ttl_seconds = 30\nrenew_seconds = 8").hub
    assert (hub.renew_seconds, hub.poll_seconds, hub.expiry_margin_seconds) == (8, 4, 2)


@pytest.mark.parametrize(
    ("timings", "key"),
    [
        ({"renew_seconds": 15}, "hub.renew_seconds"),
        ({"poll_seconds": 5}, "hub.poll_seconds"),
        ({"expiry_margin_seconds": 11}, "hub.expiry_margin_seconds"),
        ({"lease_ttl_seconds": 4, "renew_seconds": 4}, "hub.renew_seconds"),
    ],
)
def test_lease_timings_that_do_not_fit_are_refused(load: Load, timings: Mapping[str, float], key: str) -> None:
    toml = "[hub]\n" + "\n".join(f"{name} = {value}" for name, value in timings.items())
    assert refusal(load, toml).startswith(f"{key}: ")


def test_lease_timings_at_their_limits_are_taken(load: Load) -> None:
    toml = "[hub]\nlease_ttl_seconds = 3\nrenew_seconds = 1\npoll_seconds = 1\nexpiry_margin_seconds = 1.99"
    assert load(toml).hub.expiry_margin_seconds == 1.99


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("state_dir", " "),
        ("database_url", ""),
        ("database_url", "not a connection string"),
        ("secret_key", " "),
        ("http.bind", "8420"),
        ("http.bind", "host:99999"),
        ("http.public_url", "gateway.example"),
        ("http.public_url", "https://gateway.example/?q=1"),
        ("http.public_url", "https://user:fake@gateway.example"),
        ("http.public_url", "https://gateway.example/a b"),
        ("http.public_url", "https://gateway.example/a%2Fb"),
        ("http.public_url", "https://gateway.example/a//b"),
        ("http.public_url", "https://gateway.example/../b"),
        ("http.public_url", 'https://gateway.example/"'),
        ("http.trusted_proxies", "10.0.0.0/8,proxy.example"),
        ("http.trusted_proxies", "10.0.0.1/8"),
        ("metrics.bind", "9090"),
        ("lark.open_base_url", "ftp://open.example"),
        ("lark.accounts_base_url", ""),
        ("lark.proxy_url", "ftp://proxy.example"),
        ("lark.proxy_url", "socks5://"),
        ("hub.lease_ttl_seconds", "soon"),
        ("hub.lease_ttl_seconds", "0"),
        ("hub.lease_ttl_seconds", "nan"),
        ("hub.renew_seconds", "inf"),
        ("hub.poll_seconds", "-1"),
        ("hub.expiry_margin_seconds", "0"),
        ("hub.reply_timeout_seconds", "0"),
        ("hub.stale_after_seconds", "0"),
        ("hub.batch_window_seconds", "-1"),
        ("github.webhook_secret", ""),
        ("github.app_id", "app"),
        ("github.private_key", ""),
        ("github.api_base_url", "api"),
        ("webhooks.per_token_per_minute", "-1"),
        ("webhooks.per_ip_per_minute", "many"),
        ("webhooks.body_bytes_max", "0"),
        ("log.format", "xml"),
        ("limits.drain_seconds", "0"),
        ("limits.database_connections_max", "0"),
    ],
)
def test_bad_value_is_refused_by_a_line_that_names_key_and_variable(load: Load, key: str, value: str) -> None:
    line = refusal(load, env={variable_of(key): value})
    assert line.startswith(f"{key}: ")
    assert line.endswith(f"(from {variable_of(key)})")


@pytest.mark.parametrize("key", ["database_url", "lark.proxy_url"])
def test_bad_secret_is_refused_without_repeating_it(load: Load, key: str) -> None:
    for text in ("hunter2", "http://ann:hunter2\u2100@proxy.example"):
        assert "hunter2" not in refusal(load, env={variable_of(key): text})


def test_several_bad_values_are_all_named_in_one_line(load: Load) -> None:
    line = refusal(load, '[http]\nbind = "x"\n[log]\nformat = "y"')
    assert "http.bind: " in line
    assert "log.format: " in line


@pytest.mark.parametrize(
    ("toml", "key"),
    [("typo = 1", "typo"), ("[http]\nbnid = 'x'", "http.bnid"), ("[typo]\nkey = 1", "typo"), ("http = 1", "http")],
)
def test_unknown_key_of_the_file_is_refused_by_name(load: Load, toml: str, key: str) -> None:
    assert refusal(load, toml).startswith(f"{key}: ")


@pytest.mark.parametrize("toml", ["hub = 3", "[[hub]]", 'hub = "x"'])
def test_group_that_is_no_table_is_refused_in_words_of_the_file(load: Load, toml: str) -> None:
    assert refusal(load, toml) == "hub: is a table of keys ([hub] in TOML), not a value"


@pytest.mark.parametrize(
    "name", ["GATEWAY_TYPO", "GATEWAY_HTTP__BNID", "GATEWAY_HTTP", "GATEWAY_HTTP_BIND", "gateway_log__format"]
)
def test_unknown_variable_is_refused_by_name(load: Load, name: str) -> None:
    assert name in refusal(load, env={name: "x"})


def test_unknown_credential_is_refused_by_name(load: Load) -> None:
    assert "webhook_secret" in refusal(load, credentials={"webhook_secret": "fake"})


def test_file_that_is_missing_or_no_toml_is_refused_by_name(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--config: .*absent\.toml does not exist"):
        load_settings(tmp_path / "absent.toml")
    assert refusal(load, "= =").startswith("--config: ")
    with pytest.raises(ConfigError, match=r"^--config: cannot read"):
        load_settings(tmp_path)


def test_repr_of_settings_hides_secrets(load: Load) -> None:
    env = {
        "GATEWAY_DATABASE_URL": "postgresql://u:fake-hunter2@db/x",
        "GATEWAY_SECRET_KEY": "fake-hunter2",
        "GATEWAY_LARK__PROXY_URL": "http://u:fake-hunter2@proxy:3128",
        "GATEWAY_GITHUB__PRIVATE_KEY": "fake-hunter2",
    }
    assert "hunter2" not in repr(load(env=env))


def test_github_app_id_may_be_a_number_in_the_file(load: Load) -> None:
    assert load("[github]\napp_id = 12345").github.app_id == "12345"


def test_settings_cannot_be_changed(load: Load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().http.bind = "127.0.0.1:1"
