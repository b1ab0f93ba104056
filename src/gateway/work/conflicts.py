"""The repetition of transactions that conflict with concurrent ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from gateway.errors import StoreConflict

logger = structlog.get_logger(__name__)
T = TypeVar("T")

CONFLICT_ATTEMPTS = 3


async def despite_conflicts(attempt: Callable[[], Awaitable[T]], *, attempts: int = CONFLICT_ATTEMPTS) -> T:
    """Run a whole transaction, and run it again after a StoreConflict. Raises the StoreConflict of the last attempt."""
    for _ in range(attempts - 1):
        try:
            return await attempt()
        except StoreConflict as conflict:
            logger.info("transaction_repeated", constraint=conflict.constraint)
    return await attempt()
