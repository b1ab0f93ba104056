from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.webhooks.dedupe import EVENT_ID_MEMBER
from gateway.webhooks.envelope import (
    DEFAULT_EVENT,
    DEPTH_MAX,
    EVENT_CHARS_MAX,
    SLICE_BYTES,
    Envelope,
    InvalidBody,
    normalise,
    unread_event,
)
from gateway.webhooks.filters import ACTION_MEMBERS
from gateway.webhooks.headers import RequestHeaders

CASES: dict[str, list[dict[str, Any]]] = msgspec.json.decode(
    (Path(__file__).parent / "cases" / "webhooks.json").read_bytes()
)
RECEIVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def envelope(body: bytes, **headers: str) -> Envelope:
    return normalise(body, RequestHeaders((name.replace("_", "-"), value) for name, value in headers.items()))


def document(body: bytes, **headers: str) -> Any:
    return msgspec.json.decode(envelope(body, **headers).render(RECEIVED))


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["webhook_normalise"]])
def test_body_is_normalised_as_expected(case: dict[str, Any]) -> None:
    body, headers = case["input"]["body"].encode(), RequestHeaders(case["input"]["headers"].items())
    if case["expected"].get("error"):
        with pytest.raises(InvalidBody):
            normalise(body, headers)
        return
    rendered = msgspec.json.decode(normalise(body, headers).render(RECEIVED))
    assert rendered["event"] == case["expected"]["event"]
    assert rendered["eventPayload"] == case["expected"].get("payload", msgspec.json.decode(body))
    assert rendered["request"]["contentType"] == case["expected"].get("contentType", "")


@pytest.mark.parametrize(
    ("body", "headers", "event"),
    [
        (b'{"action":"opened"}', {"x_github_event": "issues"}, "github.issues.opened"),
        (b'{"action":7}', {"x_github_event": "push"}, "github.push"),
        (b"[1]", {"x_github_event": "push"}, "github.push"),
        (b"{}", {"x_gitlab_event": "Merge Request Hook"}, "gitlab.Merge Request Hook"),
        (b'{"type":"b"}', {"x_event_type": "a"}, "a"),
        (b'{"event":"a","type":"b"}', {}, "a"),
        (b'{"type":"b","action":"c"}', {}, "b"),
        (b'{"action":"c"}', {}, "c"),
        (b'{"event":"  ","type":""}', {}, DEFAULT_EVENT),
        (b'{"event":1}', {}, DEFAULT_EVENT),
        (b"[]", {}, DEFAULT_EVENT),
        (b'{"event":"x","eventPayload":1}', {"x_github_event": "push"}, "x"),
        (b'{"event":"a\\u0000b"}', {}, "ab"),
        (b'{"event":"' + b"e" * 900 + b'"}', {}, "e" * EVENT_CHARS_MAX),
    ],
)
def test_event_is_inferred_in_order(body: bytes, headers: dict[str, str], event: str) -> None:
    assert envelope(body, **headers).event == event


def test_envelope_names_time_and_content_type_without_parameters() -> None:
    rendered = document(b"\xef\xbb\xbf {} ", content_type="application/json; charset=utf-8")
    assert rendered["request"] == {"receivedAt": "2026-01-02T03:04:05+00:00", "contentType": "application/json"}


def test_form_of_a_hook_carries_its_payload() -> None:
    form = b"x=1&payload=" + quote_plus('{"action":"opened","title":"ü + %"}').encode()
    read = envelope(form, content_type="application/x-www-form-urlencoded", x_github_event="issues")
    assert (read.event, read.payload) == ("github.issues.opened", {"action": "opened"})
    assert msgspec.json.decode(read.document) == {"action": "opened", "title": "ü + %"}


def test_json_sent_as_a_form_is_read_as_json() -> None:
    assert envelope(b'{"a":1}', content_type="application/x-www-form-urlencoded").document == b'{"a":1}'


@pytest.mark.parametrize(
    "body",
    [
        b"", b"  ", b"\xef\xbb\xbf", b"1", b'"text"', b"null", b"true", b"{", b'{"a":1}x', b'["\xff"]', b'[\\ud800]',
        b"[1e400x]", b"[1e]",
        b"\xff\xfe{\x00}\x00", b"\x1f\x8b\x08", b"[" * 200_000, b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1),
        b'{"a":' * 150 + b"1" + b"}" * 150, b"a=1", b"payload=1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("content_type", ["", "application/json", "application/x-www-form-urlencoded"])
def test_body_that_is_no_object_or_array_is_invalid(body: bytes, content_type: str) -> None:
    with pytest.raises(InvalidBody):
        envelope(body, content_type=content_type)


@pytest.mark.parametrize("form", [b"payload=%7B%7D&payload=%7B%7D", b"a=1&b=2", b"&".join([b"a=1"] * 101), b"payload="])
def test_form_without_exactly_one_payload_is_invalid(form: bytes) -> None:
    with pytest.raises(InvalidBody):
        envelope(form, content_type="application/x-www-form-urlencoded")


def test_nesting_up_to_the_limit_is_fine() -> None:
    body = b"[" * DEPTH_MAX + b"]" * DEPTH_MAX
    assert envelope(body).document == body


def test_numbers_keep_their_digits() -> None:
    number = b"12345678901234567890123.50"
    assert envelope(b'{"n":' + number + b"}").document == b'{"n":' + number + b"}"
    assert envelope(b'{"event":"e","eventPayload":[' + number + b"]}").document == b"[" + number + b"]"


LONG = b"0.1234567890123456789012345678901234567890"


@pytest.mark.parametrize("number", [b"1e400", b"-1E+99999", b"1e-400", LONG, b"1.50", b"9" * 400])
def test_numbers_beyond_a_machines_own_pass_untouched(number: bytes) -> None:
    body = b'{"n":%s,"deep":%s}' % (number, b"[" * 40 + b"0," * 200 + number + b"]" * 40)
    assert envelope(body).document == body


@pytest.mark.parametrize("body", [b"1", b'"text"', b"null", b"true", b" 1e400 "])
def test_scalar_is_taken_only_where_it_may_be(body: bytes) -> None:
    assert normalise(body, RequestHeaders(), takes_scalar=True).document == body.strip()
    for broken in (body.strip() + b"x", b"text", b"01", b""):
        with pytest.raises(InvalidBody):
            normalise(broken, RequestHeaders(), takes_scalar=True)


@pytest.mark.parametrize("width", [1, 3, 40_000])
def test_depth_is_judged_beside_texts_full_of_brackets(width: int) -> None:
    inner = b",".join([rb'{"[[{\"[":"}]\\"}'] * width)
    assert envelope(b"[" * (DEPTH_MAX - 1) + inner + b"]" * (DEPTH_MAX - 1)).document
    with pytest.raises(InvalidBody, match="deeper"):
        envelope(b"[" * DEPTH_MAX + inner + b"]" * DEPTH_MAX)


def test_form_of_any_length_is_decoded_whole() -> None:
    for filler in range(4):
        value = {"a": "x" * filler + "ü%+ " * SLICE_BYTES}
        form = b"payload=" + quote_plus(msgspec.json.encode(value)).encode()
        read = envelope(form, content_type="application/x-www-form-urlencoded")
        assert msgspec.json.decode(read.document) == value


@pytest.mark.parametrize(
    ("headers", "body", "name"),
    [
        ({"X-GitHub-Event": "ping"}, {"zen": "x", "hook_id": 1}, "ping"),
        ({"X-GitHub-Event": "push"}, {"zen": "x"}, ""),
        ({"X-Event-Key": "diagnostics:ping"}, {"test": True}, "diagnostics:ping"),
        ({"X-Discourse-Event": "ping"}, {"ping": "OK"}, "ping"),
        ({"X-Amz-Sns-Message-Type": "SubscriptionConfirmation"}, {"Type": "x"}, "SubscriptionConfirmation"),
        ({"X-Amz-Sns-Message-Type": "Notification"}, {"Type": "x"}, ""),
        ({"Aeg-Event-Type": "SubscriptionValidation"}, [{"eventType": "x"}], "SubscriptionValidation"),
        ({"X-Hook-Secret": "not-a-real-secret"}, {}, "x-hook-secret"),
        ({}, {"type": "url_verification", "challenge": "c", "token": "t"}, "url_verification"),
        ({}, {"event": "endpoint.url_validation", "payload": {"plainToken": "p"}}, "endpoint.url_validation"),
        ({}, {"event": {"id": "x", "event_type": "pagey.ping"}}, "pagey.ping"),
        ({}, {"event": {"id": "x", "event_type": "incident.triggered"}}, ""),
        ({}, {"type": "notification_event", "topic": "ping", "data": {}}, "ping"),
        ({}, {"type": "notification_event", "topic": "user.created"}, ""),
        ({}, {"challenge": "c"}, "challenge"),
        ({}, {"challenge": "c", "type": "chess.started"}, ""),
        ({}, {"event": "ping"}, ""),
        ({}, ["ping"], ""),
        ({"X-GitHub-Event": "ping"}, {"event": "own", "eventPayload": {}}, ""),
    ],
)
def test_handshakes_of_providers_are_known(headers: dict[str, str], body: object, name: str) -> None:
    assert normalise(msgspec.json.encode(body), RequestHeaders(headers.items())).handshake == name


def test_member_of_any_length_is_no_name() -> None:
    assert envelope(b'{"event":"' + b"e" * 9_000 + b'","type":"short"}').event == "short"


def test_nul_is_replaced_and_an_escaped_backslash_is_not() -> None:
    assert document(rb'{"a":"x\u0000y","b":"\\u0000","c\u0000":"\\\u0000"}')["eventPayload"] == {
        "a": "x\ufffdy",
        "b": "\\u0000",
        "c\ufffd": "\\\ufffd",
    }


def test_half_of_a_surrogate_pair_is_replaced_and_a_whole_one_is_not() -> None:
    assert document(rb'{"a":"x\ud83d","b":"\ud83d\uDE00","c":"\\ud800","d":"\udc00\ud800\udc00","\uD800":"\\\udfff"}')[
        "eventPayload"
    ] == {"a": "x\ufffd", "b": "\U0001f600", "c": r"\ud800", "d": "\ufffd\U00010000", "\ufffd": "\\\ufffd"}


def test_event_of_an_unreadable_body_comes_from_its_headers() -> None:
    assert unread_event(RequestHeaders([("X-GitHub-Event", "push")])) == "github.push"
    assert unread_event(RequestHeaders()) == DEFAULT_EVENT


HEADER_NAMES = st.sampled_from(["content-type", "x-github-event", "x-gitlab-event", "x-event-type"])


@given(
    st.one_of(st.binary(max_size=60), st.builds(lambda text: text.encode("utf-8", "surrogatepass"), st.text())),
    st.lists(st.tuples(HEADER_NAMES, st.text(max_size=20))),
)
def test_any_body_is_an_envelope_or_invalid(body: bytes, pairs: list[tuple[str, str]]) -> None:
    try:
        read = normalise(body, RequestHeaders(pairs))
    except InvalidBody:
        return
    assert b"\\u0000" not in read.render(RECEIVED).replace(rb"\\", b"")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(st.lists(JSON) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON))
def test_body_is_preserved_in_the_envelope(value: Any) -> None:
    body = msgspec.json.encode(value)
    read = normalise(body, RequestHeaders())
    if b"\\u0000" not in body:
        assert msgspec.json.decode(read.document) == value


def test_every_member_that_decisions_read_is_kept() -> None:
    body = {name: f"the {name}" for name in (*ACTION_MEMBERS, EVENT_ID_MEMBER)}
    assert envelope(msgspec.json.encode(body)).payload == body
