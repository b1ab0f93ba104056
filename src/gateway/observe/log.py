"""Logging with structlog: JSON unless on a terminal, and without secrets.

Two rules hold whatever a caller passes. A value whose key sounds like a secret is replaced. A URL loses its query and
its password, because the tickets of a long connection and of binding links are in the query. The content of messages is
not filtered here: callers never pass it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

HIDDEN = "[hidden]"

_SECRET_KEY = re.compile(
    r"(^|_)(tokens?|secrets?|passwords?|passwd|pwd|authorization|cookies?|tickets?|credentials?|signature"
    r"|(private|secret|encrypt|api|access|signing)_?key)(_|$)|conninfo|database_(direct_)?url|dsn",
    re.IGNORECASE,
)
_HARMLESS_KEY = re.compile(r"_(id|ids|count|hint|name|seconds|expires_at)$")
_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[-.\s]+")
# The pattern starts at the colon: with the scheme, a match would be tried at every letter of a long word. The user part
# is greedy up to the last @, because a password may contain an @ itself.
_URL = re.compile(r"://(?:[^\s/?#'\"]*@)?(?P<rest>[^\s?#'\"<>]*)(?P<query>[?#][^\s'\"<>]*)?")
_KEYWORD = re.compile(r"\b(password|passfile|secret|token|ticket)=(?!\[hidden)\S+", re.IGNORECASE)
_BEARER = re.compile(r"\b(?:gw[urs]|awt)_[A-Za-z0-9_-]{16,}")

Format = Literal["json", "console"]

CHATTY_LOGGERS = ("hypercorn", "httpx2", "httpcore2", "httpx", "httpcore", "trio-websocket", "yoyo", "asyncio")


def configure_logging(format: Format | None = None, *, stream: TextIO | None = None, level: str = "INFO") -> None:
    """Send the output of structlog and of the standard library's loggers to `stream` (stderr by default).

    Without `format`, a terminal gets the console form and anything else JSON. Call this once, at the start of a
    command. A second call replaces the configuration of the first.
    """
    out = stream or sys.stderr
    chosen = format or ("console" if out.isatty() else "json")
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=_rendering(chosen, colors=out.isatty())
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor that removes secrets. It runs after tracebacks have become text, so it covers them too."""
    for key, value in event.items():
        event[key] = scrub(value, key)
    return event


def _leading(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the keys that every line has first, because people read these lines too."""
    return {**{name: event[name] for name in ("timestamp", "level", "event") if name in event}, **event}


def scrub(value: object, key: str = "") -> object:
    """Return `value` as it may be logged under `key`. Containers are walked, other objects stay as they are."""
    if is_secret_name(key) and value is not None and not isinstance(value, bool):
        return HIDDEN
    if isinstance(value, str):
        return _BEARER.sub(HIDDEN, _KEYWORD.sub(rf"\1={HIDDEN}", _URL.sub(_without_query, value)))
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {name: scrub(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub(inner) for inner in value]
    return value


def is_secret_name(name: str) -> bool:
    """True if a field of this name holds a secret: `app_secret` and `X-Api-Key` do, `token_count` does not."""
    plain = _BOUNDARY.sub("_", name).lower()
    return bool(_SECRET_KEY.search(plain)) and not _HARMLESS_KEY.search(plain)


def _without_query(match: re.Match[str]) -> str:
    return f"://{match['rest']}" + ("?…" if match["query"] else "")


def _rendering(chosen: Format, *, colors: bool) -> list[Any]:
    drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if chosen == "json":
        to_text = structlog.processors.format_exc_info
        return [drop, to_text, redact, _leading, structlog.processors.JSONRenderer(ensure_ascii=False, default=str)]
    plain = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    return [drop, structlog.processors.format_exc_info, redact, plain]
