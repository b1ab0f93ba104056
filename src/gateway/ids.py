"""Identifiers and secrets that the gateway generates itself."""

from __future__ import annotations

import base64
import hashlib
import secrets
from uuid import UUID, uuid4

from gateway.errors import Invalid

USER_TOKEN_PREFIX = "gwu_"  # noqa: S105  (a public prefix, not a secret)
RUNTIME_TOKEN_PREFIX = "gwr_"  # noqa: S105
SESSION_TOKEN_PREFIX = "gws_"  # noqa: S105
WEBHOOK_TOKEN_PREFIX = "awt_"  # noqa: S105


def new_id() -> UUID:
    """Return a new row id."""
    return uuid4()


def parse_id(text: str, *, field: str = "id") -> UUID:
    """Parse an id from a path or body.

    Raises Invalid that names the field, for text that is not a UUID and for the zero UUID.
    """
    try:
        value = UUID(text)
    except (ValueError, AttributeError, TypeError) as error:
        raise Invalid("invalid_id", f"{field} is not a UUID", field=field) from error
    if value.int == 0:
        raise Invalid("invalid_id", f"{field} is the zero UUID", field=field)
    return value


def new_token(prefix: str) -> str:
    """Return a new bearer secret: the prefix and 32 random bytes, base64url without padding.

    Only its hash is stored. The one exception is the address of a webhook, which people must be able to copy again.
    """
    return prefix + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()


def new_link_token() -> str:
    """Return a secret for a single-use link: 32 random bytes, base64url without padding. Only its hash is stored."""
    return new_token("")


def token_hash(token: str) -> str:
    """Return the stored form of a bearer secret: SHA-256 as 64 hex digits.

    The input has 256 random bits, so no salt is needed.
    """
    return hashlib.sha256(token.encode()).hexdigest()
