import io
import json
import logging
import os
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import structlog
import trio

from gateway.cli import run
from gateway.keyring import KeyRing, generate_key, open_config
from gateway.postgres.pool import Pool
from support.lark_directory import Place, add_place
from support.lark_rest import TOKEN_PATH, Reply, serving_platform

APP_ID = "cli_0123456789abcdef"
SECRET = "fake-app-secret"


class Terminal:
    """Runs command lines in a thread, because they start a trio of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = ""
        self.err = ""

    async def run(self, *arguments: str, stdin: str = "") -> int:
        self._monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = await trio.to_thread.run_sync(run, ["lark", *arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    async def json(self, *arguments: str, stdin: str = "") -> Any:
        assert await self.run(*arguments, "--json", stdin=stdin) == 0, self.err
        return json.loads(self.out)


@pytest.fixture
async def place(pool: Pool) -> Place:
    return await add_place(pool)


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database: str, tmp_path: Any
) -> Iterator[Terminal]:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", database)
    monkeypatch.setenv("GATEWAY_SECRET_KEY", generate_key())
    monkeypatch.setenv("GATEWAY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Terminal(monkeypatch, capsys)
    # A command sends the logs to its own stderr, which is gone after the test.
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def add_arguments(place: Place, *more: str) -> list[str]:
    return ["add", "--agent", str(place.agent_id), "--app-id", APP_ID, "--app-secret-stdin", *more]


async def test_add_list_bind_unbind_revoke(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    async with serving_platform() as platform:
        monkeypatch.setenv("GATEWAY_LARK__OPEN_BASE_URL", platform.base_url)
        added = await terminal.json(*add_arguments(place), stdin=f"{SECRET}\n")
    assert (added["app_id"], added["status"], added["bot_open_id"]) == (APP_ID, "active", "ou_bot")
    assert platform.asked(TOKEN_PATH)[0].json == {"app_id": APP_ID, "app_secret": SECRET}
    assert await terminal.json("list") == [added]
    bound = await terminal.json("bind", added["id"], "ou_1", place.owner_email)
    assert (bound["installation_id"], bound["user_id"]) == (added["id"], str(place.owner_id))
    assert await terminal.run("bind", added["id"], "ou_1", "nobody@acme.example") == 1
    assert "nobody@acme.example" in terminal.err
    assert await terminal.run("unbind", added["id"], "ou_1") == 0
    assert await terminal.run("unbind", added["id"], "ou_1") == 1
    revoked = await terminal.json("revoke", added["id"])
    assert (revoked["id"], revoked["status"], revoked["connection"]["state"]) == (added["id"], "revoked", "revoked")
    assert await terminal.run("list") == 0
    assert APP_ID in terminal.out


async def test_add_of_another_app_needs_replace_where_a_bot_is_live(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setenv("GATEWAY_LARK__OPEN_BASE_URL", "http://127.0.0.1:9")
    first = await terminal.json(*add_arguments(place), stdin=SECRET)
    other = [*add_arguments(place), "--app-id", f"{APP_ID}0"]
    assert await terminal.run(*other, stdin=SECRET) == 1
    assert terminal.err.count("\n") == 1
    assert [word in terminal.err for word in (APP_ID, first["id"], "--replace", "linked again")] == [True] * 4
    assert (await terminal.json(*add_arguments(place), stdin="fake-rotated"))["id"] == first["id"]
    assert [bot["app_id"] for bot in await terminal.json("list")] == [APP_ID]
    replaced = await terminal.json(*other, "--replace", stdin=SECRET)
    assert (replaced["id"], replaced["app_id"]) == (first["id"], f"{APP_ID}0")


async def test_add_with_a_wrong_secret_fails_with_one_clear_line(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    async with serving_platform() as platform:
        monkeypatch.setenv("GATEWAY_LARK__OPEN_BASE_URL", platform.base_url)
        platform.script(TOKEN_PATH, Reply({"code": 10014, "msg": "app secret invalid"}))
        assert await terminal.run(*add_arguments(place), stdin=SECRET) == 1
    assert terminal.err.count("\n") == 1
    assert "app secret invalid" in terminal.err
    assert SECRET not in terminal.out + terminal.err
    assert await terminal.json("list") == []


async def test_add_while_the_platform_is_away_warns_beside_the_json(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setenv("GATEWAY_LARK__OPEN_BASE_URL", "http://127.0.0.1:9")
    added = await terminal.json(*add_arguments(place, "--region", "lark", "--allow-bots"), stdin=SECRET)
    assert (added["region"], added["bot_open_id"]) == ("lark", "")
    assert "warning" in terminal.err


URL = "https://gateway.example"


@pytest.mark.parametrize("way", ["options", "stdin", "environment"])
async def test_add_for_http_events_takes_the_console_secrets_and_says_where_to_post(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, place: Place, pool: Pool, way: str
) -> None:
    monkeypatch.setenv("GATEWAY_LARK__OPEN_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GATEWAY_HTTP__PUBLIC_URL", URL)
    arguments, stdin = ["--event-mode", "http"], f"{SECRET}\n"
    if way == "options":
        arguments += ["--encrypt-key", "fake-key", "--verification-token", "fake-token"]
    elif way == "stdin":
        arguments += ["--encrypt-key", "-", "--verification-token", "-"]
        stdin += "fake-key\nfake-token\n"
    else:
        monkeypatch.setenv("LARK_ENCRYPT_KEY", "fake-key")
        monkeypatch.setenv("LARK_VERIFICATION_TOKEN", "fake-token")
    added = await terminal.json(*add_arguments(place, *arguments), stdin=stdin)
    url = f"{URL}/api/webhooks/lark/{added['id']}"
    assert (added["event_mode"], added["events_url"], added["connection"]["state"]) == ("http", url, "http")
    assert url in terminal.err
    async with pool.connection() as conn:
        ((config,),) = await (await conn.execute("select config from channel_installation")).fetchall()
    assert "fake-" not in str(config)
    ring = KeyRing.parse(os.environ["GATEWAY_SECRET_KEY"])
    opened = open_config(config, ring, UUID(added["id"]))
    assert (opened["app_secret"], opened["encrypt_key"], opened["verification_token"]) == (
        SECRET,
        "fake-key",
        "fake-token",
    )


async def test_list_says_where_to_post_or_that_nobody_knows(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setenv("GATEWAY_LARK__OPEN_BASE_URL", "http://127.0.0.1:9")
    more = ["--event-mode", "http", "--verification-token", "fake-token"]
    added = await terminal.json(*add_arguments(place, *more), stdin=SECRET)
    assert added["events_url"] is None
    assert await terminal.run("list") == 0
    assert "http.public_url is unset" in terminal.err
    monkeypatch.setenv("GATEWAY_HTTP__PUBLIC_URL", URL)
    assert await terminal.run("list") == 0
    assert f"{URL}/api/webhooks/lark/{added['id']}" in terminal.err
    assert APP_ID in terminal.out
    assert URL not in terminal.out
    await terminal.run("revoke", added["id"])
    assert await terminal.run("list") == 0
    assert terminal.err == ""


async def test_add_for_http_events_without_the_token_is_refused(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    assert await terminal.run(*add_arguments(place, "--event-mode", "http", "--encrypt-key", "k"), stdin=SECRET) == 1
    assert "verification_token" in terminal.err


async def test_add_without_a_secret_key_is_refused(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.delenv("GATEWAY_SECRET_KEY")
    assert await terminal.run(*add_arguments(place), stdin=SECRET) == 1
    assert "secret_key" in terminal.err
    assert await terminal.json("list") == []


async def test_commands_with_a_bad_secret_key_exit_with_78(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET_KEY", "fake-short")
    assert await terminal.run(*add_arguments(place), stdin=SECRET) == 78
    assert "secret_key" in terminal.err
    assert "fake-short" not in terminal.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["add", "--app-id", APP_ID, "--app-secret-stdin"],
        ["add", "--agent", "00000000-0000-0000-0000-000000000001", "--app-id", APP_ID],
        ["revoke"],
        ["bind", "00000000-0000-0000-0000-000000000001", "ou_1"],
    ],
)
async def test_commands_with_wrong_usage_exit_with_2(terminal: Terminal, arguments: list[str]) -> None:
    assert await terminal.run(*arguments) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "--agent", "Nobody", "--app-id", APP_ID, "--app-secret-stdin"], "there is no agent 'Nobody'"),
        (["revoke", "x"], "there is no installation 'x': give its id, its app id or its agent"),
        (["unbind", "cli_0000000000000000", "ou_1"], "there is no installation 'cli_0000000000000000'"),
    ],
)
async def test_commands_about_nothing_known_exit_with_1(terminal: Terminal, arguments: list[str], words: str) -> None:
    assert await terminal.run(*arguments, stdin=SECRET) == 1
    assert terminal.err.startswith(f"gateway: {words}")
    assert terminal.err.count("\n") == 1


async def test_names_do_wherever_ids_of_agents_and_bots_are_taken(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, place: Place, pool: Pool
) -> None:
    monkeypatch.setenv("GATEWAY_LARK__OPEN_BASE_URL", "http://127.0.0.1:9")
    async with pool.connection() as conn:
        cursor = await conn.execute(
            "select name, (select slug from workspace where id = workspace_id) from agent where id = %s",
            (place.agent_id,),
        )
        ((name, slug),) = await cursor.fetchall()
    add = ["add", "--agent", f"{slug}/{name}", "--app-id", APP_ID, "--app-secret-stdin", "--allow-mention-all"]
    added = await terminal.json(*add, stdin=SECRET)
    assert added["agent_id"] == str(place.agent_id)
    async with pool.connection() as conn:
        ((config,),) = await (await conn.execute("select config from channel_installation")).fetchall()
    assert config["allow_mention_all"] is True
    assert "allow_bots" not in config
    for number, reference in enumerate([added["id"], APP_ID, name, f"{slug}/{name}", str(place.agent_id)]):
        bound = await terminal.json("bind", reference, f"ou_{number}", place.owner_email)
        assert bound["installation_id"] == added["id"]
        assert await terminal.run("unbind", reference, f"ou_{number}") == 0
    assert (await terminal.json("revoke", APP_ID))["status"] == "revoked"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("on_0123456789abcdef", "a union id"),
        ("oc_0123456789abcdef", "the id of a chat"),
        ("om_0123456789abcdef", "the id of a message"),
        ("cli_0123456789abcdef", "the id of an app"),
        ("4d7a3c6g", "a user id"),
        ("ada@example.com", "an e-mail address"),
        ("ou_", "no id of a person"),
        ("ou_a b", "no id of a person"),
        ("", "no id of a person"),
    ],
)
async def test_bind_says_which_kind_of_id_was_given(terminal: Terminal, place: Place, given: str, kind: str) -> None:
    assert await terminal.run("bind", APP_ID, given, place.owner_email) == 1
    assert (
        terminal.err
        == f"gateway: {given!r} is {kind}; an open id begins with ou_, and each bot has its own for a person\n"
    )
