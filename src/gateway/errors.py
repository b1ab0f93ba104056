"""What can go wrong, split by who must act on it.

Product outcomes (an unbound person, a duplicate, a message that does not address the bot) are values, never exceptions.
Library errors are translated once, at the edge that calls the library, with `raise ... from`.
A message names the value, the limit, and what to do about it.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Base of everything this project raises on purpose."""


class ConfigError(GatewayError):
    """The operator must change a setting. The process exits with status 78 and prints the one line."""


class ProtocolError(GatewayError):
    """Somebody broke the wire protocol."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that cannot be accepted."""


class LocalProtocolError(ProtocolError):
    """We asked our own protocol code for something its state does not allow: a bug on our side."""


class StoreError(GatewayError):
    """The database could not do what was asked."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, or ended the connection. Retry."""


class StoreConflict(StoreError):
    """A constraint or a concurrent writer stands against it. The caller decides. `constraint` names it when known."""

    def __init__(self, message: str, *, constraint: str = "") -> None:
        super().__init__(message)
        self.constraint = constraint


class RejectedRequest(GatewayError):
    """An HTTP request is answered with `status` and `code` (a slug); `extra` is added to the JSON body."""

    def __init__(self, status: int, code: str, message: str, **extra: object) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.extra = extra


class LeaseLost(GatewayError):
    """The right to act for an installation has ended. Whatever was running under it must stop."""
