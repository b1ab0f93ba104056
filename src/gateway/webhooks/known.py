"""The tokens that may exist, known without a look-up: an address that guessed too often gets none for the others."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from uuid import UUID

import structlog
import trio

from gateway.errors import StoreError, StoreUnavailable
from gateway.webhooks.ports import TokenStore

logger = structlog.get_logger(__name__)

TOKENS_MAX = 100_000
"""Tokens that are known. Where there are more, every one may exist, and is looked up."""
PAGE_ROWS = 1_000
DIGEST_BYTES = 8
RETRY_SECONDS = 1.0
"""How long after a failure to read them the next attempt comes."""
_FIRST = UUID(int=0)


class KnownTokens:
    """Digests of the tokens that exist, read when they are first needed, and kept up to date by announcements.

    A digest is the beginning of a token's SHA-256. It tells nothing of 256 random bits, and a token that has it by
    chance is only looked up. Digests of tokens that were taken away stay until the next reading, with the same effect.
    """

    def __init__(
        self, store: TokenStore, *, tokens_max: int = TOKENS_MAX, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._tokens_max = tokens_max
        self._clock = clock
        self._reading = trio.Lock()
        self._digests: set[bytes] = set()
        self._is_complete = False
        self._heard: set[bytes] = set()
        self._failed_at = float("-inf")

    def hear(self, payload: str) -> None:
        """Take the announcement of a new token, its digest in hex; "" says that some may have been missed."""
        try:
            digest = bytes.fromhex(payload)
        except ValueError:
            digest = b""
        if digest:
            self._digests.add(digest)
            if self._reading.locked():
                self._heard.add(digest)
        else:
            self._is_complete = False

    async def may_exist(self, token: str) -> bool:
        """False for a token that certainly does not exist. Raises StoreError when that is unknown."""
        digest = hashlib.sha256(token.encode()).digest()[:DIGEST_BYTES]
        if digest not in self._digests and not self._is_complete:
            async with self._reading:
                await self._read()
        return digest in self._digests or len(self._digests) > self._tokens_max

    async def _read(self) -> None:
        """All who wait for a reading share one, its failure included."""
        if self._is_complete:
            return
        if self._clock() - self._failed_at < RETRY_SECONDS:
            raise StoreUnavailable(f"the tokens could not be read less than {RETRY_SECONDS:g} s ago")
        self._is_complete = True  # an announcement that some were missed may take it back meanwhile
        self._heard.clear()
        try:
            digests = await self._read_pages()
        except StoreError:
            self._is_complete, self._failed_at = False, self._clock()
            raise
        except BaseException:
            self._is_complete = False
            raise
        self._digests = digests | self._heard
        logger.info("webhook_tokens_read", count=len(digests))

    async def _read_pages(self) -> set[bytes]:
        digests: set[bytes] = set()
        after = _FIRST
        while len(digests) <= self._tokens_max:
            page = await self._store.token_digests(after, PAGE_ROWS)
            digests.update(digest for _, digest in page)
            if len(page) < PAGE_ROWS:
                break
            after = page[-1][0]
        return digests
