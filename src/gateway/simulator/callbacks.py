"""Events pushed over HTTP to an app's address: encrypted, signed, and with the faults that a test has planned."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx2
import msgspec
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from gateway.simulator.clock import SimulatorClock
from gateway.simulator.faults import Faults, PushFault
from gateway.simulator.platform import App, SimPlatform, derive

IV_BYTES = 16
ANSWER_SHOWN_MAX = 512


class Unreachable(Exception):
    """The app's address gave no answer, or none in HTTP."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One request to post, byte for byte."""

    url: str
    body: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CallbackReply:
    """The answer to a posted request."""

    status: int
    body: bytes


Post = Callable[[Letter], Awaitable[CallbackReply]]


async def post_on_loopback(letter: Letter) -> CallbackReply:
    """Post over HTTP without proxies or redirects. The caller sets the time limit. Raises Unreachable."""
    try:
        # No address here is https. Without verification the certificates need not be loaded for every event.
        async with httpx2.AsyncClient(trust_env=False, verify=False, timeout=None) as http:
            answer = await http.post(letter.url, content=letter.body, headers=letter.headers)
            return CallbackReply(answer.status_code, answer.content)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Unreachable(f"{type(error).__name__} {error}") from error


class Callbacks:
    """Posts events to the apps that take them over HTTP. `post` sends one request, and may be replaced."""

    def __init__(self, platform: SimPlatform, clock: SimulatorClock, entropy: random.Random, faults: Faults) -> None:
        self.post: Post = post_on_loopback
        self._platform = platform
        self._clock = clock
        self._entropy = entropy
        self._faults = faults

    def takes(self, app_id: str) -> bool:
        """True if this app has its events pushed over HTTP."""
        return self._platform.apps[app_id].event_mode == "http"

    async def push(self, app_id: str, payload: bytes) -> CallbackReply:
        """Post one event once. Raises Unreachable, also if the app has no address."""
        app = self._platform.apps[app_id]
        if not app.event_url:
            raise Unreachable("the app has named no address")
        return await self.post(self._letter(app, payload, self._faults.next_push(app_id) or PushFault("")))

    async def verify(self, app: App) -> tuple[CallbackReply, bool]:
        """Challenge the app's address. Returns the answer and whether it proves the address. Raises Unreachable."""
        challenge = derive("", "challenge", str(self._entropy.getrandbits(64)))
        asked = {"challenge": challenge, "token": app.verification_token, "type": "url_verification"}
        body = self._sealed(msgspec.json.encode(asked), app.encrypt_key)
        reply = await self.post(Letter(app.event_url, body, {"content-type": "application/json; charset=utf-8"}))
        try:
            answered = msgspec.json.decode(reply.body)
        except msgspec.DecodeError:
            return reply, False
        return reply, reply.status == 200 and isinstance(answered, dict) and answered.get("challenge") == challenge

    # -- one letter

    def _letter(self, app: App, payload: bytes, fault: PushFault) -> Letter:
        if fault.how == "wrong_token" and app.verification_token:
            payload = payload.replace(app.verification_token.encode(), derive("", "wrong token").encode())
        key = {"wrong_key": "another key", "unencrypted": ""}.get(fault.how, app.encrypt_key)
        body = self._sealed(payload, key)
        headers = {"content-type": "application/json; charset=utf-8"}
        if app.encrypt_key and fault.how != "unsigned":
            headers |= self._signature(app, body, fault)
        return Letter(app.event_url, body, headers)

    def _signature(self, app: App, body: bytes, fault: PushFault) -> dict[str, str]:
        timestamp = str(round(self._clock.wall_ms() / 1000 - fault.age_seconds))
        nonce = f"{self._entropy.getrandbits(63)}"
        key = "another key" if fault.how == "wrong_signature" else app.encrypt_key
        return {
            "x-lark-request-timestamp": timestamp,
            "x-lark-request-nonce": nonce,
            "x-lark-signature": sign(timestamp, nonce, key, body),
        }

    def _sealed(self, payload: bytes, key: str) -> bytes:
        if not key:
            return payload
        return msgspec.json.encode({"encrypt": encrypt(payload, key, self._entropy.randbytes(IV_BYTES))})


def sign(timestamp: str, nonce: str, encrypt_key: str, body: bytes) -> str:
    """Return the SHA-256, in lower-case hex, over the three texts and the bytes of the body, exactly as sent."""
    return hashlib.sha256(f"{timestamp}{nonce}{encrypt_key}".encode() + body).hexdigest()


def encrypt(plaintext: bytes, encrypt_key: str, iv: bytes) -> str:
    """Encrypt with AES-256-CBC and PKCS#7 padding, under the SHA-256 of the key.

    Returns base64 of the initialisation vector followed by the ciphertext.
    """
    padder = padding.PKCS7(algorithms.AES.block_size).padder()
    padded = padder.update(plaintext) + padder.finalize()
    encryptor = Cipher(algorithms.AES(hashlib.sha256(encrypt_key.encode()).digest()), modes.CBC(iv)).encryptor()
    return base64.b64encode(iv + encryptor.update(padded) + encryptor.finalize()).decode()
