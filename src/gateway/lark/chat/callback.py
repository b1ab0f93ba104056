"""An event that the platform posts to us: whether it is the platform's, and what it says.

Sans-IO. With an encrypt key the body is a ciphertext and its raw bytes are signed; without one all that vouches for a
body is the verification token inside. The question whether this address takes events at all (the challenge) need not
be signed: there the token vouches too. Whatever comes in, the answer is a verdict and never an exception.
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
from gateway.lark.chat.content import parse_json

TIMESTAMP_HEADER = "x-lark-request-timestamp"
NONCE_HEADER = "x-lark-request-nonce"
SIGNATURE_HEADER = "x-lark-signature"

TIMESTAMP_WINDOW = timedelta(minutes=5)
"""How far the time in a signature may be off, either way. A redelivery is signed anew."""
CHALLENGE_CHARACTERS_MAX = 1024
UNSIGNED_BYTES_MAX = 8_192
"""A body that no signature covers is opened below this only: enough for a challenge, and for nothing else."""
_TOKEN_BYTES_MAX = 4_096
_TIMESTAMP_DIGITS_MAX = 12
_BLOCK_BYTES = 16


@dataclass(frozen=True, slots=True)
class CallbackSecrets:
    """What the platform's console and we share; an empty text is a secret that was not set."""

    encrypt_key: str = field(default="", repr=False)
    verification_token: str = field(default="", repr=False)


class Reason(StrEnum):
    """Why a body was refused. What cannot be verified has one reason only: a second would be an oracle."""

    UNVERIFIED = "unverified"
    STALE = "stale_timestamp"
    WRONG_TOKEN = "wrong_token"  # noqa: S105
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Challenge:
    """The console asks whether somebody is here: send `text` back."""

    text: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the platform's, in the clear: what the long connection would have carried."""

    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing of it may be used."""

    reason: Reason


Judgement = Challenge | Event | Refused


def judge(headers: Mapping[str, str], body: bytes, secrets: CallbackSecrets, *, now: datetime) -> Judgement:
    """Decide what a posted body is. `headers` may be spelt in any case, `body` is what came over the wire."""
    if not secrets.encrypt_key:
        return _judge_plain(body, secrets)
    lowered = {name.lower(): value for name, value in headers.items()}
    if not _is_signed(lowered, body, secrets.encrypt_key):
        return _judge_unsigned(body, secrets, Refused(Reason.UNVERIFIED))
    if not _is_fresh(lowered.get(TIMESTAMP_HEADER, ""), now):
        return _judge_unsigned(body, secrets, Refused(Reason.STALE))
    return _judge_signed(body, secrets)


def signature(timestamp: str, nonce: str, encrypt_key: str, body: bytes) -> str:
    """What the platform puts into its signature header: it covers the raw bytes, not what they decode to."""
    said = (timestamp + nonce + encrypt_key).encode(errors="surrogatepass")
    return hashlib.sha256(said + body).hexdigest()


def decrypt(encrypted: str, encrypt_key: str) -> bytes | None:
    """The plaintext of an `encrypt` field; None for what was not encrypted with this key."""
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
    # Anybody may post here: only a body with the right token is worth the time of decoding all of it.
    token = _peek_token(body)
    if token is None:
        return Refused(Reason.UNREADABLE)
    if not secrets.verification_token or not _same(token, secrets.verification_token):
        return Refused(Reason.WRONG_TOKEN)
    envelope = _object(body)
    return Refused(Reason.UNREADABLE) if envelope is None else _opened(envelope, body)


def _judge_unsigned(body: bytes, secrets: CallbackSecrets, refused: Refused) -> Judgement:
    """A challenge that only somebody with the key can have written is good without a signature; nothing else is."""
    plaintext = _plaintext(body, secrets.encrypt_key) if len(body) <= UNSIGNED_BYTES_MAX else None
    envelope = None if plaintext is None or plaintext is body else _object(plaintext)
    if envelope is None or not _is_challenge(envelope) or not _token_matches(envelope, secrets):
        return refused
    judged = _opened(envelope, body)
    return judged if isinstance(judged, Challenge) else refused


def _judge_signed(body: bytes, secrets: CallbackSecrets) -> Judgement:
    """The signature vouches already. A token that is there must be the right one all the same."""
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
    """The body itself when it is not encrypted; None when it does not open."""
    envelope = _object(body)
    if envelope is None:
        return None
    encrypted = envelope.get("encrypt")
    return decrypt(encrypted, encrypt_key) if isinstance(encrypted, str) else body


def _is_signed(headers: Mapping[str, str], body: bytes, encrypt_key: str) -> bool:
    expected = signature(headers.get(TIMESTAMP_HEADER, ""), headers.get(NONCE_HEADER, ""), encrypt_key, body)
    return _same(headers.get(SIGNATURE_HEADER, ""), expected)


def _is_fresh(timestamp: str, now: datetime) -> bool:
    """Seconds since 1970. The signature covers them, so that an old request cannot be sent again."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _TIMESTAMP_DIGITS_MAX):
        return False
    return abs(int(timestamp) - now.timestamp()) <= TIMESTAMP_WINDOW.total_seconds()


def _is_challenge(envelope: dict[str, Any]) -> bool:
    return envelope.get("type") == "url_verification"


def _token_matches(envelope: dict[str, Any], secrets: CallbackSecrets) -> bool:
    """A token that was never set matches nothing."""
    return bool(secrets.verification_token) and _same(_token(envelope), secrets.verification_token)


def _token(envelope: dict[str, Any]) -> str:
    """In the header of the present envelope, at the top of the older one and of a challenge."""
    header = envelope.get("header")
    token = header.get("token") if isinstance(header, dict) else envelope.get("token")
    return token if isinstance(token, str) else ""


class _HeaderPeek(msgspec.Struct):
    token: msgspec.Raw = msgspec.Raw()


class _Peek(msgspec.Struct):
    token: msgspec.Raw = msgspec.Raw()
    header: msgspec.Raw = msgspec.Raw()


def _peek_token(body: bytes) -> str | None:
    """What `_token` would say of the body, found without building anything of the rest; None for no JSON object."""
    # msgspec refuses half a surrogate pair, which is legal here. Which character it is half of does not matter.
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
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(said.encode(errors="surrogatepass"), expected.encode(errors="surrogatepass"))


def _is_text(text: str) -> bool:
    """Whether it can be sent back: JSON can carry half a character, UTF-8 cannot."""
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
