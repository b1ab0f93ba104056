"""What commands print for people, and how they read a secret."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta, timezone

import click
import pytest

from gateway.cli.output import plain, print_record, print_table, progress_bars, read_secret


def test_record_shows_only_fields_that_say_something(capsys: pytest.CaptureFixture[str]) -> None:
    print_record({"id": 1, "kind": "", "owner": None, "longer_name": "x"})
    assert capsys.readouterr().out == "id           1\nlonger_name  x\n"


def test_time_is_shown_in_utc_to_the_second() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=2)))
    assert plain(moment) == "2026-01-02 01:04:05Z"
    assert plain(moment.astimezone(UTC)) == "2026-01-02 01:04:05Z"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb", "a\\nb"), ("\x1b[2J", "\\x1b[2J"), ("\u202egnp", "\\u202egnp"), ("Zoë 日本", "Zoë 日本")],
)
def test_text_that_would_steer_the_terminal_is_shown_escaped(
    capsys: pytest.CaptureFixture[str], text: str, shown: str
) -> None:
    print_record({"name": text})
    print_table(("NAME",), [(text,)])
    assert capsys.readouterr().out == f"name  {shown}\nNAME\n{shown}\n"


def test_secret_is_one_line_of_stdin_without_its_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" spaces stay \r\nmore\n"))
    assert read_secret("Password") == " spaces stay "


def test_secret_that_is_no_text_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), encoding="utf-8"))
    with pytest.raises(click.UsageError, match="not UTF-8"):
        read_secret("App secret")


def test_secret_of_a_person_at_a_terminal_is_asked_for_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def prompt(label: str, *, hide_input: bool, **_: object) -> str:
        asked.append((label, hide_input))
        return "typed"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("click.prompt", prompt)
    assert read_secret("Password") == "typed"
    assert asked == [("Password", True)]


def test_progress_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> str:
        with progress_bars() as show:
            show("secrets [of] bots", 1, 2)
            show("secrets [of] bots", 2, 2)
        shown = capsys.readouterr()
        assert shown.out == ""
        return shown.err

    assert work() == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = work()
    assert "secrets [of] bots" in shown
    assert "2/2" in shown
