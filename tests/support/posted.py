"""Events as the platform posts them: encrypted, signed, or neither."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

KEY = "fake encrypt key"
TOKEN = "fake-verification-token"


@dataclass(frozen=True)
class Posted:
    headers: dict[str, str]
    body: bytes


def encrypted(plaintext: bytes, key: str = KEY, iv: bytes | None = None) -> bytes:
    padder = PKCS7(128).padder()
    padded = padder.update(plaintext) + padder.finalize()
    iv = secrets.token_bytes(16) if iv is None else iv
    encryptor = Cipher(algorithms.AES(hashlib.sha256(key.encode()).digest()), modes.CBC(iv)).encryptor()
    return json.dumps({"encrypt": base64.b64encode(iv + encryptor.update(padded)).decode()}).encode()


def signed(body: bytes, key: str = KEY, *, at: datetime | None = None, nonce: str = "n-1") -> Posted:
    timestamp = str(int((at or datetime.now(UTC)).timestamp()))
    value = hashlib.sha256(f"{timestamp}{nonce}{key}".encode() + body).hexdigest()
    headers = {
        "X-Lark-Request-Timestamp": timestamp,
        "X-Lark-Request-Nonce": nonce,
        "X-Lark-Signature": value,
        "Content-Type": "application/json",
    }
    return Posted(headers, body)


def challenge(text: str = "please-echo", token: str = TOKEN) -> bytes:
    return json.dumps({"type": "url_verification", "challenge": text, "token": token}).encode()


def message_event(
    text: str = "hello",
    *,
    app_id: str,
    token: str = TOKEN,
    message_id: str = "om_1",
    chat_id: str = "oc_1",
    sender: str = "ou_ann",
    chat_type: str = "p2p",
    mentions: list[dict[str, Any]] | None = None,
) -> bytes:
    message: dict[str, Any] = {
        "message_id": message_id,
        "chat_id": chat_id,
        "chat_type": chat_type,
        "message_type": "text",
        "create_time": str(int(datetime.now(UTC).timestamp() * 1000)),
        "content": json.dumps({"text": text}),
    }
    if mentions:
        message["mentions"] = mentions
    header = {
        "event_id": f"ev_{message_id}",
        "token": token,
        "create_time": "1767225600000",
        "event_type": "im.message.receive_v1",
        "tenant_key": "tk",
        "app_id": app_id,
    }
    sent_by = {"sender_id": {"open_id": sender}, "sender_type": "user", "tenant_key": "tk"}
    envelope = {"schema": "2.0", "header": header, "event": {"sender": sent_by, "message": message}}
    return json.dumps(envelope).encode()
