"""Encryption of stored secrets with a ring of AES-256-GCM keys.

A sealed secret is bytes: version (1) | key id (8) | nonce (12) | ciphertext and tag. The associated data is the key id
and the id of the row that owns the secret. A sealed value that is copied to another row therefore does not open there.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import ConfigError, GatewayError

KEY_BYTES = 32
SEALED_SUFFIX = "_encrypted"
"""The suffix of the names of sealed values in a stored config. The SQL of key rotation contains it too."""
_VERSION = b"\x01"
_KEY_ID_BYTES = 8
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = len(_VERSION) + _KEY_ID_BYTES + _NONCE_BYTES


class UnreadableSecret(GatewayError):
    """A stored secret does not open: its key is not on the ring, or the stored bytes were changed."""


def generate_key() -> str:
    """Return a new key in the form that the setting `secret_key` takes: base64 of 32 random bytes."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


class KeyRing:
    """Keys, newest first. The newest key seals, and every key opens. Its `repr` does not show the keys."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Build the ring. Raises ConfigError if there is no key, or if a key is not 32 bytes long."""
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
        """Parse the setting: base64 of 32 bytes, or a comma list of such keys, newest first. Raises ConfigError."""
        return cls([_parse_key(part.strip()) for part in text.split(",") if part.strip()])

    def seal(self, plaintext: bytes, *, owner: UUID) -> bytes:
        """Encrypt for the row `owner`. Each call draws a new nonce, so sealing a plaintext twice gives two results."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self._newest].encrypt(nonce, plaintext, self._newest + owner.bytes)
        return _VERSION + self._newest + nonce + sealed

    def open(self, sealed: bytes, *, owner: UUID) -> bytes:
        """Decrypt a value that `seal` made for the same owner. Raises UnreadableSecret."""
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
        """Encrypt like `seal`, for a JSON document: the result is base64 on one line."""
        return base64.b64encode(self.seal(plaintext.encode(), owner=owner)).decode()

    def open_text(self, sealed: str, *, owner: UUID) -> str:
        """Decrypt a value of `seal_text`. Line breaks and blanks in the base64 are ignored. Raises UnreadableSecret."""
        try:
            return self.open(_bytes_of(sealed), owner=owner).decode()
        except ValueError as error:
            raise UnreadableSecret("the stored secret is not text in base64") from error

    def reseal_text(self, sealed: str, *, owner: UUID) -> str | None:
        """Seal the same secret with the newest key. Returns None if the newest key sealed it already.

        Raises UnreadableSecret, as `open_text` does. A value that the newest key sealed is opened too, so that a
        damaged one is reported instead of being counted as up to date.
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
        # `from None` drops the cause: it adds nothing to this line, and it must never carry the key into a log.
        raise ConfigError("secret_key: a key is not base64; `gateway keygen` prints one") from None


def _key_id(key: bytes) -> bytes:
    """Return a name for a key that does not reveal it: a short BLAKE2b digest for this purpose only."""
    return hashlib.blake2b(key, digest_size=_KEY_ID_BYTES, person=b"gateway key id").digest()


def open_config(stored: Mapping[str, Any], ring: KeyRing | None, owner: UUID) -> dict[str, Any]:
    """Return an installation's stored config with its secrets opened: `app_secret_encrypted` becomes `app_secret`.

    On every platform a name that ends in `_encrypted` holds a secret: base64 of bytes sealed for the row `owner`.

    Without a ring only a config without secrets can be opened. Raises UnreadableSecret.
    """
    opened: dict[str, Any] = {}
    for name, value in stored.items():
        if name.endswith(SEALED_SUFFIX):
            if ring is None:
                raise UnreadableSecret("secret_key is unset")
            opened[name.removesuffix(SEALED_SUFFIX)] = ring.open_text(str(value), owner=owner)
        else:
            opened[name] = value
    return opened
