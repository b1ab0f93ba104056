from __future__ import annotations

import os

import pytest

from gateway.cli.agent_privacy import (
    Secrets,
    named_variables,
    own_command,
    program_environment,
    take_secrets,
)


@pytest.mark.parametrize(
    ("original", "arguments", "options"),
    [
        (["python", "-m", "gateway", "agent", "run"], ["x/__main__.py", "agent", "run"], ["-m", "gateway"]),
        (["python", "-I", "/bin/gateway", "agent"], ["/bin/gateway", "agent"], ["-I", "/bin/gateway"]),
        (["python", "-c", "import x", "a", "a"], ["-c", "a", "a"], ["-c", "import x"]),
        (["pytest"], ["pytest", "something", "else"], ["-m", "gateway"]),
        (["python"], ["prog"], ["-m", "gateway"]),
    ],
)
def test_own_command_is_how_it_was_started_without_the_arguments(
    monkeypatch: pytest.MonkeyPatch, original: list[str], arguments: list[str], options: list[str]
) -> None:
    monkeypatch.setattr("sys.executable", "/venv/python")
    assert own_command(original, arguments) == ["/venv/python", *options]


def test_own_command_of_a_bundle_is_the_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.frozen", True, raising=False)
    monkeypatch.setattr("sys.executable", "/bin/gateway")
    assert own_command(["/bin/gateway", "agent"], ["/bin/gateway", "agent"]) == ["/bin/gateway"]


def test_program_gets_only_what_is_on_the_list_and_what_was_named() -> None:
    worker = {"PATH": "/bin", "LC_ALL": "C", "LC": "x", "http_proxy": "p", "Path": "x", "KEY": "x", "LD_PRELOAD": "x"}
    assert program_environment(worker, {"KEY": "y", "PATH": "/usr/bin"}) == {
        "PATH": "/usr/bin",
        "LC_ALL": "C",
        "http_proxy": "p",
        "KEY": "y",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    assert program_environment({}, {"TERM": "vt100"})["TERM"] == "vt100"


def test_named_variables_are_copied_or_given() -> None:
    assert named_variables(["A", "B=", "C=x=y", "A=z"], {"A": "1", "B": "2"}) == {"A": "z", "B": "", "C": "x=y"}


@pytest.mark.parametrize("wanted", ["", "=", "=x", "MISSING", "AGENT_TOKEN", "AGENT_TOKEN=x", "A=\x00", "A\x00"])
def test_variable_that_cannot_be_given_is_refused(wanted: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (each has words of its own)
        named_variables([wanted], {"AGENT_TOKEN": "x"})


def test_secrets_are_read_once(tmp_path: object) -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"token":"gwr_not-a-real-token","variables":{"A":"b"}}')
    os.close(writing)
    assert take_secrets(reading) == Secrets("gwr_not-a-real-token", {"A": "b"})
    with pytest.raises(ValueError, match="holds no secrets"):
        take_secrets(reading)


@pytest.mark.parametrize("content", [b"", b"{}", b"<html>", b'{"token":1}'])
def test_descriptor_with_something_else_is_refused(content: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    with pytest.raises(ValueError, match="holds no secrets"):
        take_secrets(reading)


def test_short_values_are_no_secrets_to_look_for() -> None:
    secrets = Secrets("gwr_not-a-real-token", {"A": "1", "B": "12345678"})
    assert secrets.hide("1 12345678 gwr_not-a-real-token") == "1 [hidden] [hidden]"
    assert "not-a-real" not in repr(secrets)
    assert "12345678" not in repr(secrets)
