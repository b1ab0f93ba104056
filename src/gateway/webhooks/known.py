"""The digests of existing tokens, kept in memory. They tell without a database look-up that a token cannot exist.

An address that has guessed too often gets no look-up for a token that cannot exist.
"""

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
"""Tokens that are kept in memory. If more exist, every token counts as possible and is looked up."""
PAGE_ROWS = 1_000
DIGEST_BYTES = 8
RETRY_SECONDS = 1.0
"""Pause after a failed reading before the next attempt."""
_FIRST = UUID(int=0)


class KnownTokens:
    """Digests of the tokens that exist. They are read when first needed, and kept up to date by announcements.

    A digest is the beginning of a token's SHA-256. It reveals nothing about a token of 256 random bits. A wrong token
    that has the same digest by chance only causes a look-up. The digests of deleted tokens stay until the next reading,
    and also only cause a look-up.
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
        """Take in the announcement of a new token: its digest in hex, or "" when announcements may have been missed."""
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
        """Read the digests. All callers that wait for a reading share one, and they share its failure too."""
        if self._is_complete:
            return
        if self._clock() - self._failed_at < RETRY_SECONDS:
            raise StoreUnavailable(f"the tokens could not be read less than {RETRY_SECONDS:g} s ago")
        self._is_complete = True  # set before the reading, so that `hear` can reset it while the reading is under way
        self._heard.clear()
        try:
            digests = await self._read_pages()
        except StoreError:
            self._is_complete, self._failed_at = False, self._clock()
            raise
        except BaseException:
            self._is_complete = False
            raise
        # Tokens that were announced during the reading may be missing from its pages.
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
