"""Logs: their two forms, and what never gets into them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gateway.observe.log import HIDDEN, configure_logging, is_secret_name, scrub


@pytest.fixture(autouse=True)
def logging_put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def out() -> io.StringIO:
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    return stream


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_entry_has_event_level_logger_and_utc_time(out: io.StringIO) -> None:
    structlog.get_logger("gateway.test").info("bot_live", node="n1")
    (entry,) = entries(out)
    assert entry["event"] == "bot_live"
    assert entry["level"] == "info"
    assert entry["logger"] == "gateway.test"
    assert entry["node"] == "n1"
    assert entry["timestamp"].endswith("Z")


def test_json_entry_begins_with_what_every_entry_has(out: io.StringIO) -> None:
    structlog.get_logger("gateway.test").info("bot_live", attempt=1)
    (entry,) = entries(out)
    assert list(entry)[:3] == ["timestamp", "level", "event"]


def test_logger_made_before_configuration_follows_it() -> None:
    logger = structlog.get_logger("gateway.early")
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    logger.info("late")
    assert entries(stream)[0]["event"] == "late"


def test_form_is_json_off_a_terminal_and_console_on_one() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    pipe, terminal = io.StringIO(), Terminal()
    configure_logging(stream=pipe)
    structlog.get_logger().info("to_pipe")
    configure_logging(stream=terminal)
    structlog.get_logger().info("to_terminal")
    assert "\x1b[" in terminal.getvalue()
    assert json.loads(pipe.getvalue())["event"] == "to_pipe"
    assert "to_terminal" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_entry_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream, level="WARNING")
    structlog.get_logger().info("quiet")
    logging.getLogger("some.library").info("quiet too")
    structlog.get_logger().warning("loud")
    assert [entry["event"] for entry in entries(stream)] == ["loud"]


def test_standard_library_loggers_are_routed_in(out: io.StringIO) -> None:
    logging.getLogger("hypercorn.error").warning("Running on %s", "http://127.0.0.1:1")
    (entry,) = entries(out)
    assert entry["logger"] == "hypercorn.error"
    assert entry["event"] == "Running on http://127.0.0.1:1"


@pytest.mark.parametrize(
    "key",
    [
        "token", "access_token", "tenantAccessToken", "lease_token", "app_secret", "secret_key", "password",
        "Authorization", "ticket", "private_key", "encrypt-key", "X-Api-Key", "cookie", "database_url", "signature",
        "database_direct_url",
    ],
)  # fmt: skip
def test_value_under_a_secret_name_is_hidden(out: io.StringIO, key: str) -> None:
    structlog.get_logger().info("event", **{key: "hunter2", "nested": {key: ["hunter2"]}})
    assert "hunter2" not in out.getvalue()
    assert entries(out)[0][key] == HIDDEN


@pytest.mark.parametrize(
    "key", ["token_id", "token_count", "secret_hint", "key", "monkey", "tokenizer", "task_id", "ticketing"]
)
def test_value_under_a_harmless_name_stays(key: str) -> None:
    assert not is_secret_name(key)


def test_flag_about_a_secret_stays() -> None:
    assert scrub(True, "secret") is True
    assert scrub(None, "token") is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dial wss://open.example/ws?ticket=hunter2&x=1 now", "dial wss://open.example/ws?… now"),
        ("https://h/p#hunter2", "https://h/p?…"),
        ("postgresql://gateway:hunter2@db:5432/x", "postgresql://db:5432/x"),
        ("postgresql://gateway:hunter@2@db:5432/x", "postgresql://db:5432/x"),
        ("POSTGRESQL://gateway:hunter2@db/x", "POSTGRESQL://db/x"),
        ("http://127.0.0.1:8420/lark/bind?token=hunter2", "http://127.0.0.1:8420/lark/bind?…"),
        ("host=db password=hunter2 dbname=x", f"host=db password={HIDDEN} dbname=x"),
        ("token gwr_hunter2hunter2hunter2 was", f"token {HIDDEN} was"),
        ("POST /api/webhooks/autopilots/awt_hunter2hunter2hunter2", f"POST /api/webhooks/autopilots/{HIDDEN}"),
        ("plain text? yes", "plain text? yes"),
    ],
)
def test_text_loses_queries_passwords_and_tokens(text: str, shown: str) -> None:
    assert scrub(text, "detail") == shown


def test_bytes_are_shown_by_their_length_only() -> None:
    assert scrub(b"what somebody wrote", "payload") == "<19 bytes>"


def test_traceback_is_one_text_and_passes_through_redaction(out: io.StringIO) -> None:
    try:
        raise ValueError("cannot reach wss://h/ws?ticket=hunter2")
    except ValueError as error:
        structlog.get_logger().error("failed", exc_info=error)
    (entry,) = entries(out)
    assert "ValueError: cannot reach wss://h/ws?…" in entry["exception"]
    assert "hunter2" not in out.getvalue()


def test_traceback_on_the_console_passes_through_redaction() -> None:
    stream = io.StringIO()
    configure_logging("console", stream=stream)
    try:
        raise ValueError("cannot reach wss://h/ws?ticket=hunter2")
    except ValueError:
        logging.getLogger("library").exception("failed")
    assert "Traceback" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_console_form_in_a_file_has_no_colours() -> None:
    stream = io.StringIO()
    configure_logging("console", stream=stream)
    structlog.get_logger().info("to_file")
    assert "to_file" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
