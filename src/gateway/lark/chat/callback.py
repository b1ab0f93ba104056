"""Verifies and reads an event that the platform posts over HTTP. Sans-IO.

With an encrypt key the body is a ciphertext, and its raw bytes are signed. Without one, only the verification token
inside the body proves that it is the platform's. The challenge, by which the console asks whether this address takes
events, need not be signed: there the token is proof too. The result is always a judgement, never an exception.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from gateway.errors import RemoteProtocolError
from gateway.lark.chat.untrusted import parse_json

TIMESTAMP_HEADER = "x-lark-request-timestamp"
NONCE_HEADER = "x-lark-request-nonce"
SIGNATURE_HEADER = "x-lark-signature"

TIMESTAMP_WINDOW = timedelta(minutes=5)
"""The largest difference of a signature's time from ours, either way. A redelivery gets a new signature."""
CHALLENGE_CHARACTERS_MAX = 1024
UNSIGNED_BYTES_MAX = 8_192
"""The largest body that is decrypted without a valid signature: enough for a challenge, and for nothing else."""
_TOKEN_BYTES_MAX = 4_096
_TIMESTAMP_DIGITS_MAX = 12
_BLOCK_BYTES = 16


@dataclass(frozen=True, slots=True)
class CallbackSecrets:
    """The secrets shared with the platform's console; an empty text means that the secret is not set."""

    encrypt_key: str = field(default="", repr=False)
    verification_token: str = field(default="", repr=False)


class Reason(StrEnum):
    """The reason that a body was refused.

    All bodies without a valid signature have one reason: a second would be an oracle for a stranger.
    """

    UNVERIFIED = "unverified"
    STALE = "stale_timestamp"
    WRONG_TOKEN = "wrong_token"  # noqa: S105
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Challenge:
    """The console asks whether this address takes events: send `text` back."""

    text: str


@dataclass(frozen=True, slots=True)
class Event:
    """A verified event in plain text, as the long connection would have carried it."""

    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """The body was refused; nothing in it may be used."""

    reason: Reason


Judgement = Challenge | Event | Refused


def judge(headers: Mapping[str, str], body: bytes, secrets: CallbackSecrets, *, now: datetime) -> Judgement:
    """Judge a posted body. Header names may be in any case; `body` is the raw bytes as received."""
    if not secrets.encrypt_key:
        return _judge_plain(body, secrets)
    lowered = {name.lower(): value for name, value in headers.items()}
    if not _is_signed(lowered, body, secrets.encrypt_key):
        return _judge_unsigned(body, secrets, Refused(Reason.UNVERIFIED))
    if not _is_fresh(lowered.get(TIMESTAMP_HEADER, ""), now):
        return _judge_unsigned(body, secrets, Refused(Reason.STALE))
    return _judge_signed(body, secrets)


def signature(timestamp: str, nonce: str, encrypt_key: str, body: bytes) -> str:
    """Return the expected value of the signature header. It covers the raw bytes, not the decrypted text."""
    said = (timestamp + nonce + encrypt_key).encode(errors="surrogatepass")
    return hashlib.sha256(said + body).hexdigest()


def decrypt(encrypted: str, encrypt_key: str) -> bytes | None:
    """Return the plaintext of an `encrypt` field; None if it was not encrypted with this key."""
    try:
        raw = base64.b64decode(encrypted, validate=True)
    except ValueError:
        return None
    if len(raw) < 2 * _BLOCK_BYTES or len(raw) % _BLOCK_BYTES:
        return None
    key = hashlib.sha256(encrypt_key.encode(errors="surrogatepass")).digest()
    decryptor = Cipher(algorithms.AES(key), modes.CBC(raw[:_BLOCK_BYTES])).decryptor()
    unpadder = PKCS7(8 * _BLOCK_BYTES).unpadder()
    try:
        return unpadder.update(decryptor.update(raw[_BLOCK_BYTES:]) + decryptor.finalize()) + unpadder.finalize()
    except ValueError:
        return None


def _judge_plain(body: bytes, secrets: CallbackSecrets) -> Judgement:
    # Any stranger may post here, so the body is decoded in full only if it has the right token.
    token = _peek_token(body)
    if token is None:
        return Refused(Reason.UNREADABLE)
    if not secrets.verification_token or not _same(token, secrets.verification_token):
        return Refused(Reason.WRONG_TOKEN)
    envelope = _object(body)
    return Refused(Reason.UNREADABLE) if envelope is None else _opened(envelope, body)


def _judge_unsigned(body: bytes, secrets: CallbackSecrets, refused: Refused) -> Judgement:
    """Judge a body without a valid signature: accept an encrypted challenge with the right token, and nothing else.

    Only a holder of the encrypt key can have written such a challenge.
    """
    plaintext = _plaintext(body, secrets.encrypt_key) if len(body) <= UNSIGNED_BYTES_MAX else None
    envelope = None if plaintext is None or plaintext is body else _object(plaintext)
    if envelope is None or not _is_challenge(envelope) or not _token_matches(envelope, secrets):
        return refused
    judged = _opened(envelope, body)
    return judged if isinstance(judged, Challenge) else refused


def _judge_signed(body: bytes, secrets: CallbackSecrets) -> Judgement:
    """Judge a body with a valid signature, which is proof enough. If it has a token, the token must be right too."""
    plaintext = _plaintext(body, secrets.encrypt_key)
    envelope = None if plaintext is None else _object(plaintext)
    if plaintext is None or envelope is None:
        return Refused(Reason.UNREADABLE)
    if _token(envelope) and not _token_matches(envelope, secrets):
        return Refused(Reason.WRONG_TOKEN)
    return _opened(envelope, plaintext)


def _opened(envelope: dict[str, Any], payload: bytes) -> Judgement:
    if not _is_challenge(envelope):
        return Event(payload)
    challenge = envelope.get("challenge")
    if not isinstance(challenge, str) or len(challenge) > CHALLENGE_CHARACTERS_MAX or not _is_text(challenge):
        return Refused(Reason.UNREADABLE)
    return Challenge(challenge)


def _plaintext(body: bytes, encrypt_key: str) -> bytes | None:
    """Return the decrypted body, or the body itself if it is not encrypted; None if it cannot be decrypted."""
    envelope = _object(body)
    if envelope is None:
        return None
    encrypted = envelope.get("encrypt")
    return decrypt(encrypted, encrypt_key) if isinstance(encrypted, str) else body


def _is_signed(headers: Mapping[str, str], body: bytes, encrypt_key: str) -> bool:
    expected = signature(headers.get(TIMESTAMP_HEADER, ""), headers.get(NONCE_HEADER, ""), encrypt_key, body)
    return _same(headers.get(SIGNATURE_HEADER, ""), expected)


def _is_fresh(timestamp: str, now: datetime) -> bool:
    """True if the time is within the window. It is in seconds since 1970.

    The signature covers the time, so an old request cannot be sent again.
    """
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _TIMESTAMP_DIGITS_MAX):
        return False
    return abs(int(timestamp) - now.timestamp()) <= TIMESTAMP_WINDOW.total_seconds()


def _is_challenge(envelope: dict[str, Any]) -> bool:
    return envelope.get("type") == "url_verification"


def _token_matches(envelope: dict[str, Any], secrets: CallbackSecrets) -> bool:
    """True if the token of the envelope is ours. A token that is not set matches nothing."""
    return bool(secrets.verification_token) and _same(_token(envelope), secrets.verification_token)


def _token(envelope: dict[str, Any]) -> str:
    """Return the token: from the header of the present envelope, or from the top of an older one or of a challenge."""
    header = envelope.get("header")
    token = header.get("token") if isinstance(header, dict) else envelope.get("token")
    return token if isinstance(token, str) else ""


class _HeaderPeek(msgspec.Struct):
    token: msgspec.Raw = msgspec.Raw()


class _Peek(msgspec.Struct):
    token: msgspec.Raw = msgspec.Raw()
    header: msgspec.Raw = msgspec.Raw()


def _peek_token(body: bytes) -> str | None:
    """Return the token as `_token` does, without decoding the rest of the body; None if it is not a JSON object."""
    # A lone surrogate is legal here, but msgspec refuses it. So every surrogate escape is replaced by another
    # character; the result is used for the token only.
    whole = body.replace(b"\\ud", b"\\u0").replace(b"\\uD", b"\\u0")
    try:
        peek = msgspec.json.decode(whole, type=_Peek)
        header = bytes(peek.header)
        token = bytes(msgspec.json.decode(header, type=_HeaderPeek).token if header[:1] == b"{" else peek.token)
        if token[:1] != b'"' or len(token) > _TOKEN_BYTES_MAX:
            return ""
        return msgspec.json.decode(token, type=str)
    except (ValueError, RecursionError):
        return None


def _same(said: str, expected: str) -> bool:
    """Compare two secrets in constant time, so that the time does not tell how much of a guess is right."""
    return hmac.compare_digest(said.encode(errors="surrogatepass"), expected.encode(errors="surrogatepass"))


def _is_text(text: str) -> bool:
    """True if the text can be sent back: JSON can hold a lone surrogate, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(data)
    except RemoteProtocolError:
        return None
    return value if isinstance(value, dict) else None
