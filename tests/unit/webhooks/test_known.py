"""Which tokens may exist, without asking for each of them."""

from __future__ import annotations

import hashlib
from uuid import UUID

import pytest
import trio

from gateway.errors import StoreUnavailable
from gateway.webhooks.known import PAGE_ROWS, RETRY_SECONDS, KnownTokens


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()[:8]


class Tokens:
    """A store of tokens that counts how often it is read."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.readings = 0
        self.error: Exception | None = None
        self.during = lambda: None

    async def token_digests(self, after: UUID, rows_max: int) -> list[tuple[UUID, bytes]]:
        self.readings += after.int == 0
        if self.error is not None:
            raise self.error
        page = [(UUID(int=number), digest(token)) for number, token in enumerate(self.tokens, 1)][after.int :]
        self.during()
        await trio.lowlevel.checkpoint()
        return page[:rows_max]


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_thousand_guesses_at_once_cost_one_reading() -> None:
    store = Tokens("good")
    known = KnownTokens(store)
    answers: list[bool] = []

    async def guess(number: int) -> None:
        answers.append(await known.may_exist(f"guess {number}"))

    async with trio.open_nursery() as nursery:
        for number in range(1_000):
            nursery.start_soon(guess, number)
    assert not any(answers)
    assert await known.may_exist("good")
    assert store.readings == 1


async def test_new_token_is_known_as_soon_as_it_is_announced() -> None:
    store = Tokens("good")
    known = KnownTokens(store)
    assert not await known.may_exist("new")
    known.hear(digest("new").hex())
    assert await known.may_exist("new")
    assert store.readings == 1


async def test_token_announced_during_a_reading_is_not_lost() -> None:
    store = Tokens("good")
    known = KnownTokens(store)
    store.during = lambda: known.hear(digest("new").hex())
    assert await known.may_exist("new")
    assert await known.may_exist("good")


@pytest.mark.parametrize("payload", ["", "nonsense"])
async def test_missed_announcement_leads_to_one_more_reading(payload: str) -> None:
    store = Tokens("good")
    known = KnownTokens(store)
    assert not await known.may_exist("new")
    store.tokens.append("new")
    known.hear(payload)
    assert await known.may_exist("new")
    assert not await known.may_exist("other")
    assert store.readings == 2


async def test_all_pages_are_read() -> None:
    store = Tokens(*(f"token {number}" for number in range(PAGE_ROWS + 3)))
    known = KnownTokens(store)
    assert await known.may_exist(f"token {PAGE_ROWS + 2}")
    assert not await known.may_exist("other")


async def test_more_tokens_than_are_remembered_all_may_exist() -> None:
    known = KnownTokens(Tokens("a", "b", "c"), tokens_max=2)
    assert await known.may_exist("other")


async def test_database_that_is_away_is_not_asked_for_every_guess() -> None:
    store, clock = Tokens("good"), Clock()
    known = KnownTokens(store, clock=clock)
    store.error = StoreUnavailable("the database is away")
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await known.may_exist("good")
    assert store.readings == 1
    store.error = None
    clock.now += RETRY_SECONDS
    assert await known.may_exist("good")
