"""Answers to requests that fail: the HTTP status of each error, and the JSON that says what happened."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from quart import Response
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from gateway.errors import (
    Conflict,
    DomainError,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    StoreUnavailable,
    TooMany,
    Unauthenticated,
    Unavailable,
    Unsettled,
    UpstreamFailed,
    UpstreamTimedOut,
)
from gateway.http.body import json_response

logger = structlog.get_logger(__name__)


class TooLarge(DomainError):
    """The body of a request has more bytes than its route takes."""

    def __init__(self, message: str) -> None:
        super().__init__("body_too_large", message)


STATUSES: Mapping[type[DomainError], int] = {
    Invalid: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    Gone: 410,
    TooLarge: 413,
    TooMany: 429,
    Unsettled: 500,
    UpstreamFailed: 502,
    Unavailable: 503,
    UpstreamTimedOut: 504,
}
"""The status of each sort of error. A subclass without an entry has the status of its base class."""

_OWN_WORDS = {404: "there is nothing at this path", 405: "this path does not take this method; see Allow"}


def status_of(error: DomainError) -> int:
    """Return the HTTP status of an error. Raises LookupError for a sort of error that has none."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    raise LookupError(f"{type(error).__name__} has no HTTP status")


def error_response(status: int, code: str, message: str, extra: Mapping[str, object] | None = None) -> Response:
    """Build an error answer; every error of this server has this shape.

    An extra `retry_after` (seconds) is also sent as the Retry-After header.
    """
    fields = dict(extra or {})
    headers = {"Retry-After": str(fields["retry_after"])} if "retry_after" in fields else None
    return json_response({"error": message, "code": code, **fields}, status, headers)


def answer_to(error: BaseException) -> Response | None:
    """Return the answer to a request that ended with this error. None for an error that no request should end with."""
    match error:
        case HTTPException():
            return _http_answer(error)
        case DomainError():
            response = error_response(status_of(error), error.code, str(error), error.extra)
            if isinstance(error, Unauthenticated):
                response.headers["WWW-Authenticate"] = "Bearer"
            return response
        case StoreUnavailable():
            logger.warning("http_store_unavailable", error=str(error))
            message = "the database does not answer; try again"
            return error_response(503, "store_unavailable", message, {"retry_after": 1})
    return None


def _http_answer(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        return error_response(413, "body_too_large", "the request body is larger than this server accepts")
    text = _OWN_WORDS.get(error.code or 500) or error.description or error.name
    response = error_response(error.code or 500, error.name.lower().replace(" ", "_"), text)
    for name, value in error.get_headers():
        if name.lower() == "allow":
            response.headers[name] = value
    return response
