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


class LarkError(GatewayError):
    """The Lark platform answered, or failed to answer, a call.

    `code` is the platform's own number (0 when there was none), `log_id` what its support asks for.
    """

    def __init__(self, message: str, *, code: int = 0, log_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.log_id = log_id


class LarkUnavailable(LarkError):
    """No answer, or an answer that promises nothing: the result is unknown. Retry with the same idempotency key."""


class LarkUnreachable(LarkUnavailable):
    """The call never left: no connection, or no token for it. Nothing was done, and a retry is as good as new."""


class LarkThrottled(LarkError):
    """Too many calls. Retry after `retry_after` seconds; nothing was done.

    `whole_app`: every call of the app is meant; else those to this one chat, person or message.
    """

    def __init__(
        self, message: str, *, retry_after: float, code: int = 0, log_id: str = "", whole_app: bool = True
    ) -> None:
        super().__init__(message, code=code, log_id=log_id)
        self.retry_after = retry_after
        self.whole_app = whole_app


class LarkRefused(LarkError):
    """A definite no for this one call. Record it; the same call will be refused again."""


class LarkUnauthorized(LarkError):
    """The credentials are not accepted. Show it on the installation."""


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
