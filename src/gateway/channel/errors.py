"""Failures of a call to a chat platform, split by what the caller may do next.

Adapters translate the errors of their platform into these.
"""

from __future__ import annotations

from gateway.errors import GatewayError


class PlatformError(GatewayError):
    """A platform refused a call, or failed to answer it.

    `code` is the platform's own error number (0 if there was none). `log_id` is the id that the platform's support
    asks for.
    """

    def __init__(self, message: str, *, code: int = 0, log_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.log_id = log_id


class PlatformUnavailable(PlatformError):
    """There was no answer, or an answer that leaves the result unknown. Retry with the same idempotency key."""


class PlatformUnreachable(PlatformUnavailable):
    """The call was never made: no connection, or no token for it. Nothing was done, so a retry is a first try."""


class PlatformThrottled(PlatformError):
    """Too many calls were made. Nothing was done; retry after `retry_after` seconds.

    `whole_app` is True if the limit is on every call of the app. Otherwise it is on calls to this one chat, person or
    message.
    """

    def __init__(
        self, message: str, *, retry_after: float, code: int = 0, log_id: str = "", whole_app: bool = True
    ) -> None:
        super().__init__(message, code=code, log_id=log_id)
        self.retry_after = retry_after
        self.whole_app = whole_app


class PlatformRefused(PlatformError):
    """The platform definitely refused this one call. Record it; the same call will be refused again."""


class PlatformUnauthorized(PlatformError):
    """The credentials are not accepted. Show it on the installation."""
