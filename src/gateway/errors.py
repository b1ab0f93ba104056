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


class DomainError(GatewayError):
    """A service does not do what it was asked to do. The caller must change the request, or ask again later.

    The message is for people, and `code` is a slug for programs. `extra` holds further facts for programs. The
    subclasses say in which way the request failed. Only `http.errors` knows the HTTP status of each of them.
    """

    def __init__(self, code: str, message: str, **extra: object) -> None:
        super().__init__(message)
        self.code = code
        self.extra = extra


class Invalid(DomainError):
    """A value of the request is wrong. `field` names it, if it is one value."""

    def __init__(self, code: str, message: str, *, field: str | None = None) -> None:
        super().__init__(code, message, **({} if field is None else {"field": field}))


class Unauthenticated(DomainError):
    """The caller did not prove who they are."""


class Forbidden(DomainError):
    """The caller is known, and may not do this."""


class NotFound(DomainError):
    """The object does not exist, or the caller may not learn that it does."""


class Conflict(DomainError):
    """The present state does not allow the action. `code` names what stands in the way."""


class Gone(DomainError):
    """The object existed once, and will not come back."""


class TooMany(DomainError):
    """The caller, or all callers together, asked too often. It may work again after `retry_after` seconds."""

    def __init__(self, code: str, message: str, *, retry_after: int) -> None:
        super().__init__(code, message, retry_after=retry_after)


class Unsettled(DomainError):
    """The request was understood, but its outcome is not stored. Its sender should send it again."""


class Unavailable(DomainError):
    """A part of this server is off, or cannot work at present."""


class UpstreamFailed(DomainError):
    """A platform did not do what the request needs."""


class UpstreamTimedOut(UpstreamFailed):
    """A platform did not answer in time."""


class LeaseLost(GatewayError):
    """The lease of an installation has ended. Everything that was running under it must stop."""
