"""Secrets at rest: a ring of AES-256-GCM keys.

A sealed secret is bytes: version (1) | key id (8) | nonce (12) | ciphertext and tag. The associated data is the key id
and the id of the row that owns the secret, so a sealed value copied to another row does not open there.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import ConfigError, GatewayError

KEY_BYTES = 32
_VERSION = b"\x01"
_KEY_ID_BYTES = 8
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = len(_VERSION) + _KEY_ID_BYTES + _NONCE_BYTES


class UnreadableSecret(GatewayError):
    """A stored secret does not open: its key is not on the ring, or the stored bytes were changed."""


def generate_key() -> str:
    """A fresh key in the form that `secret_key` takes: base64 of 32 random bytes."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


class KeyRing:
    """Keys, newest first. The newest seals, any of them opens. Never shows a key, not even in `repr`."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Raises ConfigError when there is no key or one is not 32 bytes long."""
        if not keys:
            raise ConfigError("secret_key: holds no key; `gateway keygen` prints one")
        for key in keys:
            if len(key) != KEY_BYTES:
                raise ConfigError(
                    f"a key of secret_key has {len(key)} bytes, not {KEY_BYTES}; `gateway keygen` prints one"
                )
        self._newest = _key_id(keys[0])
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Read the setting: base64 of 32 bytes, or a comma list of them, newest first. Raises ConfigError."""
        return cls([_parse_key(part.strip()) for part in text.split(",") if part.strip()])

    def seal(self, plaintext: bytes, *, owner: UUID) -> bytes:
        """Encrypt for the row `owner`. Two seals of one plaintext differ."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self._newest].encrypt(nonce, plaintext, self._newest + owner.bytes)
        return _VERSION + self._newest + nonce + sealed

    def open(self, sealed: bytes, *, owner: UUID) -> bytes:
        """Decrypt what `seal` made for the same owner. Raises UnreadableSecret."""
        if len(sealed) < _HEADER_BYTES + _TAG_BYTES or not sealed.startswith(_VERSION):
            raise UnreadableSecret("the stored secret is not one that this version sealed")
        key_id, nonce = sealed[1 : 1 + _KEY_ID_BYTES], sealed[1 + _KEY_ID_BYTES : _HEADER_BYTES]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise UnreadableSecret(f"secret_key holds no key {key_id.hex()}, which sealed this secret")
        try:
            return cipher.decrypt(nonce, sealed[_HEADER_BYTES:], key_id + owner.bytes)
        except InvalidTag as error:
            raise UnreadableSecret("the stored secret was changed, or belongs to another row") from error

    def seal_text(self, plaintext: str, *, owner: UUID) -> str:
        """`seal` for a JSON document: base64 on one line."""
        return base64.b64encode(self.seal(plaintext.encode(), owner=owner)).decode()

    def open_text(self, sealed: str, *, owner: UUID) -> str:
        """`open` for what a JSON document holds. Line breaks and blanks in the base64 are fine."""
        try:
            return self.open(_bytes_of(sealed), owner=owner).decode()
        except ValueError as error:
            raise UnreadableSecret("the stored secret is not text in base64") from error

    def reseal_text(self, sealed: str, *, owner: UUID) -> str | None:
        """The same secret under the newest key; None when it is already. Raises UnreadableSecret, as `open_text` does.

        What the newest key sealed is opened too: a value that nobody can open is not one that is well kept.
        """
        plaintext = self.open_text(sealed, owner=owner)
        if _bytes_of(sealed)[1 : 1 + _KEY_ID_BYTES] == self._newest:
            return None
        return self.seal_text(plaintext, owner=owner)

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self._ciphers)} keys, newest {self._newest.hex()}>"


def _bytes_of(sealed: str) -> bytes:
    return base64.b64decode("".join(sealed.split()), validate=True)


def _parse_key(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        # Without `from`: the cause would carry no more than this line, and must never carry the key.
        raise ConfigError("secret_key: a key is not base64; `gateway keygen` prints one") from None


def _key_id(key: bytes) -> bytes:
    """A name for a key that does not give it away: the first bytes of a hash that serves no other purpose."""
    return hashlib.blake2b(key, digest_size=_KEY_ID_BYTES, person=b"gateway key id").digest()
