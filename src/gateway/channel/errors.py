"""Failures of a call to a chat platform, split by what the caller may do next. Adapters translate into them."""

from __future__ import annotations

from gateway.errors import GatewayError


class PlatformError(GatewayError):
    """A platform answered a call with a no, or failed to answer it.

    `code` is the platform's own number (0 when there was none), `log_id` what its support asks for.
    """

    def __init__(self, message: str, *, code: int = 0, log_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.log_id = log_id


class PlatformUnavailable(PlatformError):
    """No answer, or an answer that promises nothing: the result is unknown. Retry with the same idempotency key."""


class PlatformUnreachable(PlatformUnavailable):
    """The call never left: no connection, or no token for it. Nothing was done, and a retry is as good as new."""


class PlatformThrottled(PlatformError):
    """Too many calls. Retry after `retry_after` seconds; nothing was done.

    `whole_app`: every call of the app is meant; else those to this one chat, person or message.
    """

    def __init__(
        self, message: str, *, retry_after: float, code: int = 0, log_id: str = "", whole_app: bool = True
    ) -> None:
        super().__init__(message, code=code, log_id=log_id)
        self.retry_after = retry_after
        self.whole_app = whole_app


class PlatformRefused(PlatformError):
    """A definite no for this one call. Record it; the same call will be refused again."""


class PlatformUnauthorized(PlatformError):
    """The credentials are not accepted. Show it on the installation."""
