"""The envelope: the one form in which agents get the body of a request, whatever form its sender uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from gateway.core.plain import with_whole_characters
from gateway.webhooks.dedupe import EVENT_ID_MEMBER
from gateway.webhooks.filters import ACTION_MEMBERS
from gateway.webhooks.headers import RequestHeaders

DEFAULT_EVENT = "webhook.received"
EVENT_CHARS_MAX = 255
DEPTH_MAX = 100
"""Nesting of a body.

Real bodies have less than twenty levels. Bounded because readers of the stored document recurse.
"""
MEMBERS_READ = (*ACTION_MEMBERS, EVENT_ID_MEMBER)
FORM = "application/x-www-form-urlencoded"

_BOM = b"\xef\xbb\xbf"
# An escaped NUL. The group before it holds the escaped backslashes, so that the NUL's own backslash is not an escaped
# one.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


class InvalidBody(Exception):
    """The body is not a JSON object or array. The text says why, and repeats nothing of the body."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The content of a request. `document` is the payload as JSON that the database can hold.

    `payload` and `body` hold only the text members that decisions read (`MEMBERS_READ`). The parsed body itself is not
    kept: freeing a large one takes milliseconds, and would take them from the event loop. `body` is that of the whole
    request. It equals the payload's unless the sender sent an envelope of its own.
    """

    event: str
    payload: Mapping[str, str]
    body: Mapping[str, str]
    document: bytes
    content_type: str

    def render(self, received_at: datetime) -> bytes:
        """Return the JSON that a run gets: `{event, eventPayload, request: {receivedAt, contentType}}`."""
        request = {"receivedAt": received_at.astimezone(UTC).isoformat(), "contentType": self.content_type}
        return b"".join((
            b'{"event":', storable(msgspec.json.encode(self.event)),
            b',"eventPayload":', self.document,
            b',"request":', storable(msgspec.json.encode(request)), b"}",
        ))  # fmt: skip


class _OwnEnvelope(msgspec.Struct):
    payload: msgspec.Raw = msgspec.field(name="eventPayload")


def normalise(body: bytes, headers: RequestHeaders) -> Envelope:
    """Read a request's body. Raises InvalidBody."""
    content_type = headers.first("content-type").partition(";")[0].strip()[:EVENT_CHARS_MAX]
    text = with_whole_characters(_json_text(body, content_type))
    parsed = _parsed(text)
    own = _own_envelope(parsed, text)
    members = _members_read(parsed)
    if own is not None:
        payload = _members_read(parsed["eventPayload"])
        return Envelope(shown_event(parsed["event"]), payload, members, storable(own), content_type)
    return Envelope(shown_event(_event(parsed, headers)), members, members, storable(text), content_type)


def storable(document: bytes) -> bytes:
    """Return the JSON text with U+FFFD in place of each NUL, which Postgres stores neither in text nor in jsonb."""
    return _NUL.sub(rb"\1\\ufffd", document) if b"\\u0000" in document else document


def shown_event(event: str) -> str:
    """Return an event's name as the log holds it: bounded, and without NUL."""
    return event.strip()[:EVENT_CHARS_MAX].replace("\x00", "") or DEFAULT_EVENT


def unread_event(headers: RequestHeaders) -> str:
    """Return the name of an event from the headers alone, for a body that cannot be read."""
    return shown_event(_event(None, headers))


def _json_text(body: bytes, content_type: str) -> bytes:
    text = body.removeprefix(_BOM).strip()
    if not text:
        raise InvalidBody("the body is empty")
    if content_type.lower() == FORM and not text.startswith((b"{", b"[")):
        text = _form_payload(text).removeprefix(_BOM).strip()
    if not text.startswith((b"{", b"[")):
        raise InvalidBody("the body is not a JSON object or array")
    return text


def _form_payload(form: bytes) -> bytes:
    """Return the value of the field in which GitHub's form-encoded hooks carry their JSON."""
    try:
        # Decoding and encoding as Latin-1 keeps every byte, whatever the encoding of the text inside.
        fields = parse_qsl(form.decode("latin-1"), keep_blank_values=True, max_num_fields=100, encoding="latin-1")
    except ValueError as error:
        raise InvalidBody("the body is not a form of at most 100 fields") from error
    values = [value.encode("latin-1") for name, value in fields if name == "payload"]
    if len(values) != 1:
        raise InvalidBody("the form has not exactly one field named payload")
    return values[0]


def _parsed(text: bytes) -> Any:
    try:
        parsed = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidBody("the body is not JSON in UTF-8") from error
    except RecursionError as error:
        raise InvalidBody(f"the body is nested deeper than {DEPTH_MAX}") from error
    if text.count(b"[") + text.count(b"{") > DEPTH_MAX and _is_deeper_than(DEPTH_MAX, parsed):
        raise InvalidBody(f"the body is nested deeper than {DEPTH_MAX}")
    return parsed


def _is_deeper_than(depth: int, parsed: Any) -> bool:
    """Check level by level, because a recursive check could itself overflow."""
    level = [parsed]
    for _ in range(depth):
        level = [child for value in level for child in _children(value) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(value: dict[str, Any] | list[Any]) -> Any:
    return value.values() if isinstance(value, dict) else value


def _own_envelope(parsed: Any, text: bytes) -> bytes | None:
    """Return the payload's original text if the body is an envelope already, else None.

    The original text is kept so that no number is rounded.
    """
    if not isinstance(parsed, dict) or "eventPayload" not in parsed:
        return None
    event = parsed.get("event")
    if not isinstance(event, str) or not event.strip():
        return None
    return bytes(msgspec.json.decode(text, type=_OwnEnvelope).payload)


def _members_read(parsed: Any) -> dict[str, str]:
    fields = parsed if isinstance(parsed, dict) else {}
    return {name: value for name in MEMBERS_READ if isinstance(value := fields.get(name), str)}


def _event(parsed: Any, headers: RequestHeaders) -> str:
    fields = parsed if isinstance(parsed, dict) else {}
    if github := headers.first("x-github-event"):
        action = _text(fields, "action")
        return f"github.{github}.{action}" if action else f"github.{github}"
    if gitlab := headers.first("x-gitlab-event"):
        return f"gitlab.{gitlab}"
    return (
        headers.first("x-event-type")
        or _text(fields, "event")
        or _text(fields, "type")
        or _text(fields, "action")
        or DEFAULT_EVENT
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value.strip() if isinstance(value, str) else ""
