"""The exceptions of this project, divided by who must act on them.

Product outcomes (an unbound person, a duplicate, a message that does not address the bot) are values, never exceptions.
Library errors are translated once, by the module that calls the library, with `raise ... from`.
An error message names the value, the limit, and what to do about it.
"""

from __future__ import annotations


class GatewayError(Exception):
    """The base class of every exception that this project raises on purpose."""


class ConfigError(GatewayError):
    """The operator must change a setting. The process exits with status 78 and prints the message as one line."""


class ProtocolError(GatewayError):
    """One side broke the wire protocol. The subclasses say which side."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that cannot be accepted."""


class LocalProtocolError(ProtocolError):
    """This project asked its own protocol code for something that its state does not allow. This is a bug here."""


class StoreError(GatewayError):
    """The database could not do what was asked."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, or ended the connection. The caller should retry."""


class StoreConflict(StoreError):
    """A constraint or a concurrent writer prevented the statement. The caller decides what to do.

    `constraint` is the name of the constraint, or "" when it is not known.
    """

    def __init__(self, message: str, *, constraint: str = "") -> None:
        super().__init__(message)
        self.constraint = constraint


class RejectedRequest(GatewayError):
    """An HTTP request is answered with `status` and `code` (a slug). `extra` is added to the JSON body."""

    def __init__(self, status: int, code: str, message: str, **extra: object) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.extra = extra


class LeaseLost(GatewayError):
    """The lease of an installation has ended. Everything that was running under it must stop."""
