"""The envelope: the one form in which agents get the body of a request, whatever form its sender uses."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.core.plain import with_whole_characters
from gateway.webhooks.handshakes import NAMING_MEMBERS, handshake
from gateway.webhooks.headers import RequestHeaders

DEFAULT_EVENT = "webhook.received"
EVENT_CHARS_MAX = 255
DEPTH_MAX = 100
"""Nesting of a body.

Real bodies have less than twenty levels. Bounded because readers of the stored document recurse.
"""
MEMBER_BYTES_MAX = 8_192
"""A longer member is not read: it names no event, no action and no delivery."""
FORM = "application/x-www-form-urlencoded"
FIELDS_MAX = 100
SLICE_BYTES = 262_144
"""The part of a large body that one step works on. Other threads run between the steps."""

_BOM = b"\xef\xbb\xbf"
# An escaped NUL. The group before it holds the escaped backslashes, so that the NUL's own backslash is not an escaped
# one.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class InvalidBody(Exception):
    """The body is not a JSON object or array. The text says why, and repeats nothing of the body."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The content of a request. `document` is the payload as JSON that the database can hold.

    `payload` and `body` hold only the text members that decisions read (`_Members`). No other value is turned into an
    object: a large body has millions of them, and freeing them would take its time from the event loop. `body` is that
    of the whole request. It equals the payload's unless the sender sent an envelope of its own. `handshake` names the
    provider's handshake that the request is, or is "".
    """

    event: str
    payload: Mapping[str, str]
    body: Mapping[str, str]
    document: bytes
    content_type: str
    handshake: str = ""

    def render(self, received_at: datetime) -> bytes:
        """Return the JSON that a run gets: `{event, eventPayload, request: {receivedAt, contentType}}`."""
        request = {"receivedAt": received_at.astimezone(UTC).isoformat(), "contentType": self.content_type}
        return b"".join((
            b'{"event":', storable(msgspec.json.encode(self.event)),
            b',"eventPayload":', self.document,
            b',"request":', storable(msgspec.json.encode(request)), b"}",
        ))  # fmt: skip


_ABSENT = msgspec.Raw(b"")


class _Members(msgspec.Struct):
    """The members of a body that decisions read, as their JSON text. An absent one is `_ABSENT`.

    They name the action (`filters.ACTION_MEMBERS`), the delivery (`dedupe.EVENT_ID_MEMBER`), the event or a handshake.
    """

    action: msgspec.Raw = _ABSENT
    state: msgspec.Raw = _ABSENT
    conclusion: msgspec.Raw = _ABSENT
    status: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT
    event: msgspec.Raw = _ABSENT
    type: msgspec.Raw = _ABSENT
    topic: msgspec.Raw = _ABSENT
    challenge: msgspec.Raw = _ABSENT
    payload: msgspec.Raw = msgspec.field(name="eventPayload", default=_ABSENT)


class _NamedEvent(msgspec.Struct):
    """An event that is an object, as PagerDuty sends it."""

    event_type: msgspec.Raw = _ABSENT


_TEXT_MEMBERS = tuple(name for name in _Members.__struct_fields__ if name != "payload")
_READ_MEMBERS = msgspec.json.Decoder(_Members)
_READ_NAMED_EVENT = msgspec.json.Decoder(_NamedEvent)
_READ_TEXT = msgspec.json.Decoder(str)
_READ_VALUE = msgspec.json.Decoder(msgspec.Raw)


def normalise(body: bytes, headers: RequestHeaders, *, takes_scalar: bool = False) -> Envelope:
    """Read a request's body. Raises InvalidBody. `takes_scalar` lets a JSON text or number pass too."""
    content_type = headers.first("content-type").partition(";")[0].strip()[:EVENT_CHARS_MAX]
    text = with_whole_characters(_json_text(body, content_type, takes_scalar=takes_scalar))
    members = _members(text)
    texts = _texts(members)
    if members.payload is not _ABSENT and texts.get("event", "").strip():
        own = bytes(members.payload)
        inner = _texts(_READ_MEMBERS.decode(own)) if own.startswith(b"{") else {}
        return Envelope(shown_event(texts["event"]), inner, texts, storable(own), content_type)
    event = shown_event(_event(texts, headers))
    return Envelope(event, texts, texts, storable(text), content_type, handshake(headers, texts))


def storable(document: bytes) -> bytes:
    """Return the JSON text with U+FFFD in place of each NUL, which Postgres stores neither in text nor in jsonb."""
    # A function rather than a template: while it runs, other threads get their turn.
    return _NUL.sub(lambda found: found[1] + b"\\ufffd", document) if b"\\u0000" in document else document


def shown_event(event: str) -> str:
    """Return an event's name as the log holds it: bounded, and without NUL."""
    return event.strip()[:EVENT_CHARS_MAX].replace("\x00", "") or DEFAULT_EVENT


def unread_event(headers: RequestHeaders) -> str:
    """Return the name of an event from the headers alone, for a body that cannot be read."""
    return shown_event(_event({}, headers))


def _json_text(body: bytes, content_type: str, *, takes_scalar: bool) -> bytes:
    text = body.removeprefix(_BOM).strip()
    if not text:
        raise InvalidBody("the body is empty")
    if content_type.lower() == FORM and not text.startswith((b"{", b"[")):
        text = _form_payload(text).removeprefix(_BOM).strip()
    if not takes_scalar and not text.startswith((b"{", b"[")):
        raise InvalidBody("the body is not a JSON object or array")
    return text


def _form_payload(form: bytes) -> bytes:
    """Return the value of the field in which GitHub's form-encoded hooks carry their JSON."""
    if form.count(b"&") >= FIELDS_MAX:
        raise InvalidBody(f"the body is not a form of at most {FIELDS_MAX} fields")
    values = [value for name, _, value in (field.partition(b"=") for field in form.split(b"&")) if _is_payload(name)]
    if len(values) != 1:
        raise InvalidBody("the form has not exactly one field named payload")
    return b"".join(_unquoted(values[0]))


def _is_payload(name: bytes) -> bool:
    return len(name) <= MEMBER_BYTES_MAX and unquote_to_bytes(name.replace(b"+", b" ")) == b"payload"


def _unquoted(value: bytes) -> Iterator[bytes]:
    """Yield the decoded value slice by slice. All of it at once would be an object for each of its characters."""
    start = 0
    while start < len(value):
        end = start + SLICE_BYTES
        # An escape has three bytes and is not divided.
        end -= next((back for back in (1, 2) if value[end - back : end - back + 1] == b"%"), 0)
        yield unquote_to_bytes(value[start:end].replace(b"+", b" "))
        start = end


def _members(text: bytes) -> _Members:
    """Check the JSON text, and read its members. Raises InvalidBody."""
    try:
        if text.startswith(b"{"):
            members = _READ_MEMBERS.decode(text)
        else:
            _READ_VALUE.decode(text)
            members = _Members()
        _check_characters(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidBody("the body is not JSON in UTF-8") from error
    except RecursionError as error:
        raise InvalidBody(f"the body is nested deeper than {DEPTH_MAX}") from error
    if text.count(b"[") + text.count(b"{") > DEPTH_MAX and _is_deeper_than(DEPTH_MAX, text):
        raise InvalidBody(f"the body is nested deeper than {DEPTH_MAX}")
    return members


def _check_characters(text: bytes) -> None:
    """Raise UnicodeDecodeError for bytes that are not UTF-8. The JSON decoder checks only the values that it reads."""
    if len(text) <= SLICE_BYTES:
        text.decode()
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(text), SLICE_BYTES):
        decoder.decode(text[start : start + SLICE_BYTES])
    decoder.decode(b"", final=True)


def _outside_texts(text: bytes) -> Iterator[bytes]:
    """Yield the pieces of valid JSON without the content of its texts. A number may be divided between two pieces."""
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    first_outside = 0
    for start in range(0, len(plain), SLICE_BYTES):
        parts = plain[start : start + SLICE_BYTES].split(b'"')
        yield b'"'.join(parts[first_outside::2])
        first_outside = (first_outside + len(parts) - 1) % 2


def _is_deeper_than(depth: int, text: bytes) -> bool:
    """Remove the innermost pairs of brackets again and again. Each round makes the rest one level less deep."""
    brackets = b"".join(piece.translate(_BRACKETS, _NO_BRACKETS) for piece in _outside_texts(text))
    for _ in range(depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _texts(members: _Members) -> dict[str, str]:
    """Return the members that are texts. That of a PagerDuty event's own type counts as a member `event_type`."""
    texts: dict[str, str] = {}
    for name in _TEXT_MEMBERS:
        raw = getattr(members, name)
        if raw is not _ABSENT and (text := _text(raw)) is not None:
            texts[name] = text
    if members.event is not _ABSENT and "event" not in texts and bytes(members.event).startswith(b"{"):
        event_type = _text(_READ_NAMED_EVENT.decode(members.event).event_type)
        texts["event_type"] = event_type or ""
    return texts


def _text(raw: msgspec.Raw) -> str | None:
    if len(memoryview(raw)) > MEMBER_BYTES_MAX:
        return None
    written = bytes(raw)
    return _READ_TEXT.decode(written) if written.startswith(b'"') else None


def _event(texts: Mapping[str, str], headers: RequestHeaders) -> str:
    if github := headers.first("x-github-event"):
        action = texts.get("action", "").strip()
        return f"github.{github}.{action}" if action else f"github.{github}"
    if gitlab := headers.first("x-gitlab-event"):
        return f"gitlab.{gitlab}"
    named = (texts.get(name, "").strip() for name in NAMING_MEMBERS)
    return headers.first("x-event-type") or next(filter(None, named), DEFAULT_EVENT)
