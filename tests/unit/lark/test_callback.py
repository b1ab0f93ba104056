"""What is posted to us: whose it is, and what it says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lark.chat import callback
from gateway.lark.chat.callback import (
    CHALLENGE_CHARACTERS_MAX,
    CallbackEvent,
    CallbackJudgement,
    CallbackRefused,
    CallbackSecrets,
    Challenge,
    Reason,
    decrypt,
    judge,
    signature,
)
from support.posted import KEY, TOKEN, Posted, challenge, encrypted, message_event, signed
from support.vectors import vectors

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BOTH = CallbackSecrets(KEY, TOKEN)
TOKEN_ONLY = CallbackSecrets("", TOKEN)
EVENT = message_event(app_id="cli_a")

UNVERIFIED = CallbackRefused(Reason.UNVERIFIED)
UNREADABLE = CallbackRefused(Reason.UNREADABLE)
WRONG_TOKEN = CallbackRefused(Reason.WRONG_TOKEN)


def judged(body: bytes, secrets: CallbackSecrets = BOTH, **headers: str) -> CallbackJudgement:
    return judge(headers, body, secrets, now=NOW)


def judged_signed(
    plaintext: bytes, key: str = KEY, at: datetime = NOW, secrets: CallbackSecrets = BOTH
) -> CallbackJudgement:
    posted = signed(encrypted(plaintext, key), key, at=at)
    return judge(posted.headers, posted.body, secrets, now=NOW)


@vectors("callback")
def test_known_answers(vector: dict[str, Any]) -> None:
    key = vector["encrypt_key"]
    if "plaintext" in vector:
        assert decrypt(vector["encrypt"], key) == vector["plaintext"].encode()
    else:
        body = vector["raw_body"].encode()
        assert signature(vector["timestamp"], vector["nonce"], key, body) == vector["signature"]


def test_signed_event_is_the_plaintext_as_it_was_sent() -> None:
    assert judged_signed(EVENT) == CallbackEvent(EVENT)


def test_signed_event_that_is_not_encrypted_is_taken() -> None:
    posted = signed(EVENT, at=NOW)
    assert judge(posted.headers, posted.body, BOTH, now=NOW) == CallbackEvent(EVENT)


def test_signed_event_without_any_token_is_taken_and_with_another_one_not() -> None:
    assert judged_signed(b'{"type":"event_callback"}') == CallbackEvent(b'{"type":"event_callback"}')
    assert judged_signed(message_event(app_id="cli_a", token="another")) == WRONG_TOKEN
    assert judged_signed(b'{"type":"event_callback","token":"another"}') == WRONG_TOKEN
    assert judged_signed(EVENT, secrets=CallbackSecrets(KEY, "")) == WRONG_TOKEN


def test_headers_count_in_any_case() -> None:
    posted = signed(encrypted(EVENT), at=NOW)
    for spell in (str.upper, str.lower):
        headers = {spell(name): value for name, value in posted.headers.items()}
        assert judge(headers, posted.body, BOTH, now=NOW) == CallbackEvent(EVENT)


def altered(posted: Posted, **changes: str) -> dict[str, str]:
    return {**posted.headers, **{f"X-Lark-{name.replace('_', '-')}": value for name, value in changes.items()}}


@pytest.mark.parametrize(
    "changes",
    [
        {"Signature": ""},
        {"Signature": "0" * 64},
        {"Signature": "é" * 64},
        {"Request_Nonce": "n-2"},
        {"Request_Timestamp": str(int(NOW.timestamp()) + 1)},
    ],
)
def test_event_whose_headers_were_touched_is_unverified(changes: dict[str, str]) -> None:
    posted = signed(encrypted(EVENT), at=NOW)
    assert judge(altered(posted, **changes), posted.body, BOTH, now=NOW) == UNVERIFIED


def test_signature_covers_the_raw_bytes_and_not_the_json() -> None:
    posted = signed(encrypted(EVENT), at=NOW)
    spaced = json.dumps(json.loads(posted.body), indent=1).encode()
    assert judge(posted.headers, spaced, BOTH, now=NOW) == UNVERIFIED


def test_uppercase_signature_is_not_the_platforms() -> None:
    posted = signed(encrypted(EVENT), at=NOW)
    value = posted.headers["X-Lark-Signature"].upper()
    assert judge(altered(posted, Signature=value), posted.body, BOTH, now=NOW) == UNVERIFIED


@pytest.mark.parametrize(("seconds", "fresh"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_timestamp_may_be_five_minutes_off_either_way(seconds: int, fresh: bool) -> None:
    expected = CallbackEvent(EVENT) if fresh else CallbackRefused(Reason.STALE)
    assert judged_signed(EVENT, at=NOW + timedelta(seconds=seconds)) == expected


@pytest.mark.parametrize("timestamp", ["", "soon", "1767225600.0", "-1", "٣", "9" * 4000, " 1767225600"])
def test_timestamp_that_is_no_number_of_seconds_is_stale(timestamp: str) -> None:
    body = encrypted(EVENT)
    value = signature(timestamp, "n", KEY, body)
    headers = {"x-lark-request-timestamp": timestamp, "x-lark-request-nonce": "n", "x-lark-signature": value}
    assert judge(headers, body, BOTH, now=NOW) == CallbackRefused(Reason.STALE)


def test_challenge_is_answered_when_encrypted_and_not_signed() -> None:
    assert judged(encrypted(challenge("again"))) == Challenge("again")


def test_challenge_is_answered_when_signed_at_any_time() -> None:
    assert judged_signed(challenge("again")) == Challenge("again")
    assert judged_signed(challenge("again"), at=NOW - timedelta(hours=1)) == Challenge("again")


def test_challenge_with_another_token_key_or_in_the_clear_is_unverified() -> None:
    assert judged(encrypted(challenge(token="another"))) == UNVERIFIED
    assert judged(encrypted(challenge(), key="another")) == UNVERIFIED
    assert judged(challenge()) == UNVERIFIED
    assert judged(encrypted(challenge(token="")), CallbackSecrets(KEY, "")) == UNVERIFIED


def test_unsigned_event_is_unverified_whatever_is_in_it() -> None:
    """One verdict for a good ciphertext and for a bad one: nothing can be learnt by trying."""
    good = encrypted(EVENT)
    tampered = json.dumps({"encrypt": json.loads(good)["encrypt"][:-8] + "AAAAAAA="}).encode()
    for body in (good, tampered, EVENT, b"{}", b"", b'{"encrypt":1}', b'{"encrypt":""}', b'{"encrypt":"!!"}', b"\xff"):
        assert judged(body) == UNVERIFIED


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"encrypt":"AAAA"}', b'{"encrypt":"\\ud800"}'])
def test_signed_nonsense_is_unreadable(body: bytes) -> None:
    posted = signed(body, at=NOW)
    assert judge(posted.headers, posted.body, BOTH, now=NOW) == UNREADABLE


def test_signed_ciphertext_of_another_key_is_unreadable() -> None:
    posted = signed(encrypted(EVENT, "another"), at=NOW)
    assert judge(posted.headers, posted.body, BOTH, now=NOW) == UNREADABLE


@pytest.mark.parametrize("text", [None, 7, [], "x" * (CHALLENGE_CHARACTERS_MAX + 1), "\ud800"])
def test_challenge_that_cannot_be_sent_back_is_unreadable(text: object) -> None:
    body = json.dumps({"type": "url_verification", "challenge": text, "token": TOKEN}).encode()
    assert judged(body, TOKEN_ONLY) == UNREADABLE


def test_without_encrypt_key_the_token_alone_vouches() -> None:
    assert judged(EVENT, TOKEN_ONLY) == CallbackEvent(EVENT)
    assert judged(challenge("again"), TOKEN_ONLY) == Challenge("again")
    older = json.dumps({"uuid": "u", "type": "event_callback", "token": TOKEN, "event": {}}).encode()
    assert judged(older, TOKEN_ONLY) == CallbackEvent(older)


@pytest.mark.parametrize(
    "body",
    [
        message_event(app_id="cli_a", token="another"),
        challenge(token=""),
        b"{}",
        b'{"token":1}',
        b'{"header":{"token":["x"]}}',
        b'{"header":{"token":"\\ud800"}}',
        encrypted(EVENT),
    ],
)
def test_without_encrypt_key_a_body_without_the_right_token_is_refused(body: bytes) -> None:
    assert judged(body, TOKEN_ONLY) == WRONG_TOKEN


def test_installation_without_any_secret_takes_nothing() -> None:
    for body in (EVENT, challenge(), challenge(token=""), message_event(app_id="cli_a", token="")):
        assert judged(body, CallbackSecrets()) == WRONG_TOKEN


def test_secrets_and_events_do_not_show() -> None:
    assert KEY not in repr(BOTH)
    assert TOKEN not in repr(BOTH)
    assert "hello" not in repr(CallbackEvent(EVENT))


HEADERS = st.dictionaries(
    st.sampled_from(["X-Lark-Signature", "x-lark-request-timestamp", "X-LARK-REQUEST-NONCE", "other"]) | st.text(),
    st.text(st.characters(), max_size=80),
    max_size=6,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["encrypt", "type", "token", "header", "challenge"]) | st.text(), inner)
    ),
    max_leaves=8,
)
BODIES = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())
SECRETS = st.sampled_from([BOTH, TOKEN_ONLY, CallbackSecrets(KEY, ""), CallbackSecrets()])


@given(HEADERS, BODIES, SECRETS)
def test_whatever_comes_unsigned_is_refused_and_raises_nothing(
    headers: dict[str, str], body: bytes, secrets: CallbackSecrets
) -> None:
    assert isinstance(judge(headers, body, secrets, now=NOW), CallbackRefused)


@given(BODIES, st.binary(max_size=64))
def test_whatever_is_signed_or_encrypted_has_a_verdict(body: bytes, plaintext: bytes) -> None:
    for each in (body, encrypted(plaintext), encrypted(body)):
        posted = signed(each, at=NOW)
        assert isinstance(judge(posted.headers, each, BOTH, now=NOW), CallbackEvent | Challenge | CallbackRefused)
    assert isinstance(judged(encrypted(body)), Challenge | CallbackRefused)


@given(st.binary(max_size=100), st.text(min_size=1, max_size=20), st.binary(min_size=16, max_size=16))
def test_decrypt_undoes_encrypt(plaintext: bytes, key: str, iv: bytes) -> None:
    assert decrypt(json.loads(encrypted(plaintext, key, iv))["encrypt"], key) == plaintext


def test_without_encrypt_key_half_a_character_hides_no_token() -> None:
    half = EVENT[:-1] + b',"text":"cut \\ud83d and \\uDe00"}'
    assert judged(half, TOKEN_ONLY) == CallbackEvent(half)
    assert judged(half.replace(TOKEN.encode(), b"another"), TOKEN_ONLY) == WRONG_TOKEN


def test_body_that_is_not_signed_is_opened_only_when_it_can_be_a_challenge(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = json.dumps({"type": "url_verification", "challenge": "c", "token": TOKEN, "x": "y" * 9_000}).encode()
    assert judged(encrypted(challenge("c"))) == Challenge("c")
    monkeypatch.setattr(callback, "parse_json", lambda data: pytest.fail(f"{len(data)} bytes were decoded"))
    assert judged(encrypted(padded)) == UNVERIFIED
    assert judged(b'{"a":[' + b"[]," * 300_000 + b"0]}", TOKEN_ONLY) == WRONG_TOKEN
