"""The command line's frame: exit codes, one line per error, and a quick --help."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
import structlog

from gateway import __version__, cli
from gateway.errors import ConfigError, NotFound, StoreUnavailable


@pytest.fixture(autouse=True)
def environment_without_gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("os.environ", {"PATH": "", "HOME": "/nowhere"})
    yield
    structlog.reset_defaults()


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], int]:
    """Run `gateway version` with another body."""

    def play(body: Callable[[], Any]) -> int:
        command = click.Command("version", callback=body)
        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: command)
        return cli.run(["version"])

    return play


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("http.bind: wrong"), 78),
        (NotFound("unknown", "http.bind: wrong"), 1),
        (StoreUnavailable("http.bind: wrong"), 1),
        (BaseExceptionGroup("g", [ExceptionGroup("g", [ConfigError("http.bind: wrong")])]), 78),
        (ExceptionGroup("g", [StoreUnavailable("other"), ConfigError("http.bind: wrong")]), 78),
        (ConfigError("http.bind:\nwrong"), 78),
    ],
)
def test_expected_error_is_one_line_and_its_exit_code(
    play: Any, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    assert play(raising(error)) == code
    captured = capsys.readouterr()
    assert captured.err == "gateway: http.bind: wrong\n"
    assert captured.out == ""


@pytest.mark.parametrize("error", [RuntimeError("bug"), ExceptionGroup("g", [ConfigError("x"), RuntimeError("bug")])])
def test_unexpected_error_keeps_its_traceback(play: Any, error: Exception) -> None:
    with pytest.raises(type(error)):
        play(raising(error))


def test_command_may_set_its_exit_code(play: Any) -> None:
    assert play(lambda: click.get_current_context().exit(1)) == 1
    assert play(lambda: 78) == 78
    assert play(lambda: None) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("nursery", [KeyboardInterrupt()])])
def test_interrupt_is_a_failure_without_traceback(
    play: Any, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert play(raising(error)) == 1
    assert capsys.readouterr().err.strip() == "aborted"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["version", "--nonsense"],
        ["admin", "user", "add"],
        ["admin", "agent", "remove", "Helper"],
        ["admin", "agent", "set", "8e6dd14e-8b1f-4c54-b8a5-6e5f6cf2b0d3"],
        ["admin", "member", "add", "acme", "a@b", "--role", "king"],
        ["migrate", "down", "--steps", "0"],
        ["migrate", "down", "--steps", "1", "--to", "0001_core"],
        ["sim", "--port", "65536"],
        ["sim", "--ws-port", "-1"],
        ["admin", "user", "add", "a\udcff@example.com"],
    ],
)
def test_wrong_usage_is_exit_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.run(arguments) == 2
    assert "Error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor"],
        ["migrate", "status"],
        ["admin", "token", "add", "--user", "a@b"],
        ["migrate", "up"],
        ["migrate", "down"],
    ],
)
def test_wrong_configuration_is_exit_78_everywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setenv("GATEWAY_HTTP__BNID", "x")
    assert cli.run(arguments) == 78
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "GATEWAY_HTTP__BNID" in captured.err


def test_config_option_names_a_file_that_must_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--config", "/nowhere/config.toml"]) == 78
    assert "/nowhere/config.toml" in capsys.readouterr().err


def test_version_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert cli.run(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(("answer", "code", "taken"), [("n\n", 1, []), ("", 1, []), ("y\n", 0, ["0002_b"])])
def test_migrate_down_at_a_terminal_names_what_goes_and_asks(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    code: int,
    taken: list[str],
) -> None:
    done: list[str] = []

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    async def planned(_conninfo: str, **_: object) -> list[str]:
        return ["0002_b"]

    async def take_back(_conninfo: str, **_: object) -> list[str]:
        done.append("0002_b")
        return done

    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("gateway.postgres.migrate.steps_back", planned)
    monkeypatch.setattr("gateway.postgres.migrate.migrate_down", take_back)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://127.0.0.1:1/nothing")
    assert cli.run(["migrate", "down"]) == code
    assert "0002_b" in capsys.readouterr().err
    assert done == taken


def test_keygen_prints_a_new_key_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.keyring import KeyRing

    assert cli.run(["keygen"]) == 0
    assert cli.run(["keygen", "--json"]) == 0
    plain, document = capsys.readouterr().out.splitlines()
    second = json.loads(document)["secret_key"]
    assert plain != second
    KeyRing.parse(f"{plain},{second}")


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_command_of_the_table_exists_and_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    assert f"Usage: gateway {command}" in capsys.readouterr().out


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(command)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from leaves(found, (*path, name))
    else:
        yield path, command


def test_every_command_takes_config() -> None:
    without = [path for path, command in leaves(cli.cli) if "config" not in {option.name for option in command.params}]
    assert not without


def test_help_imports_neither_trio_nor_the_daemon() -> None:
    program = (
        "import sys\nfrom gateway.cli import run\nassert run(['--help']) == 0\n"
        "heavy = {'trio', 'pydantic', 'quart', 'hypercorn', 'psycopg', 'structlog', 'gateway.daemon', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout


@pytest.mark.parametrize("variable", ["GATEWAY_DATABASE_URL", "LARK_ENCRYPT_KEY", "AGENT_TOKEN", "GATEWAY_LOG__LEVEL"])
def test_variable_that_is_no_text_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    monkeypatch.setenv(variable, "fake-\udcff-secret")
    assert cli.run(["version"]) == 78
    told = capsys.readouterr().err
    assert told.startswith(f"gateway: {variable!r}: the variable is not text in ")
    assert told.count("\n") == 1
    assert "secret" not in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["admin", "user", "add", "ada@example.com", "--password-stdin"],
        ["admin", "user", "password", "ada@example.com", "--password-stdin"],
        ["lark", "add", "--agent", "Helper", "--app-id", "cli_0123456789abcdef", "--app-secret-stdin"],
        ["legacy", "import", "--from", "postgresql://127.0.0.1:1/x", "--legacy-key-stdin"],
    ],
)
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_stdin_that_is_no_text_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], errors: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9-fake\n"), encoding="utf-8", errors=errors))
    assert cli.run(arguments) == 2
    told = capsys.readouterr().err
    assert "stdin is not UTF-8 text" in told
    assert "Traceback" not in told
    assert "fake" not in told
