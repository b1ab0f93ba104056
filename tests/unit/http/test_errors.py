"""Errors as answers: the table from each sort of error to its status, and the JSON around it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from gateway.errors import (
    Conflict,
    DomainError,
    Forbidden,
    Gone,
    Invalid,
    LeaseLost,
    NotFound,
    StoreConflict,
    StoreUnavailable,
    TooMany,
    Unauthenticated,
    Unavailable,
    Unsettled,
    UpstreamFailed,
    UpstreamTimedOut,
)
from gateway.http.errors import TooLarge, answer_to, status_of
from gateway.webhooks.limits import LimitReached
from gateway.work.people.accounts import TooBusy

TABLE: list[tuple[DomainError, int, str, dict[str, object]]] = [
    (Invalid("invalid_name", "the name is empty", field="name"), 400, "invalid_name", {"field": "name"}),
    (Invalid("invalid_json", "no JSON"), 400, "invalid_json", {}),
    (Unauthenticated("invalid_token", "the token is unknown"), 401, "invalid_token", {}),
    (Forbidden("role_too_low", "you may not"), 403, "role_too_low", {}),
    (NotFound("not_found", "no such task"), 404, "not_found", {}),
    (Conflict("wrong_status", "it is done", task_status="done"), 409, "wrong_status", {"task_status": "done"}),
    (Gone("link_over", "it is over"), 410, "link_over", {}),
    (TooLarge("at most 9 bytes"), 413, "body_too_large", {}),
    (TooMany("too_many_scans", "wait", retry_after=60), 429, "too_many_scans", {"retry_after": 60}),
    (LimitReached("token", 5), 429, "rate_limited", {"retry_after": 5}),
    (TooBusy(), 429, "too_busy", {"retry_after": 3}),
    (Unsettled("redeliver", "send it again"), 500, "redeliver", {}),
    (UpstreamFailed("begin_failed", "it said no", reason="x"), 502, "begin_failed", {"reason": "x"}),
    (Unavailable("lark_off", "Lark is off"), 503, "lark_off", {}),
    (UpstreamTimedOut("timed_out", "no answer in time"), 504, "timed_out", {}),
]


@pytest.mark.parametrize(("error", "status", "code", "extra"), TABLE, ids=lambda value: type(value).__name__)
async def test_sort_of_error_has_its_status_code_words_and_fields(
    error: DomainError, status: int, code: str, extra: dict[str, object]
) -> None:
    answer = answer_to(error)
    assert answer is not None
    assert answer.status_code == status == status_of(error)
    assert msgspec.json.decode(await answer.get_data()) == {"error": str(error), "code": code, **extra}
    assert answer.headers.get("Retry-After") == (str(extra["retry_after"]) if "retry_after" in extra else None)
    assert answer.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)


def test_every_sort_of_error_is_in_the_table() -> None:
    assert {type(error) for error, *_ in TABLE} == set(kinds_of(DomainError))


def kinds_of(base: type[DomainError]) -> Iterator[type[DomainError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds_of(kind)


def test_sort_of_error_without_a_status_is_an_error_of_this_program() -> None:
    with pytest.raises(LookupError, match="DomainError"):
        status_of(DomainError("x", "x"))


async def test_database_that_is_away_is_answered_without_its_details() -> None:
    answer = answer_to(StoreUnavailable("secret details"))
    assert answer is not None
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert b"secret" not in await answer.get_data()


@pytest.mark.parametrize("error", [StoreConflict("x"), LeaseLost("x"), RuntimeError("x")])
def test_error_that_no_request_should_end_with_has_no_answer(error: Exception) -> None:
    assert answer_to(error) is None
