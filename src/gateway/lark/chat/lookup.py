"""Reads past messages of Lark, as far as one bot may see them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

from gateway.channel.errors import PlatformError, PlatformUnavailable
from gateway.core.enrichment import Recent, Said, Spot
from gateway.lark.api.client import LarkClient
from gateway.lark.api.rest import NAMES_MAX, ApiPage
from gateway.lark.chat.items import read_items

T = TypeVar("T")

PAGES_MAX = 2


class LarkLookup:
    """Implements gateway.channel.lookup.Lookup over one app's client, which the caller owns.

    A call that got no answer is tried once more; a refused or throttled call is not.
    """

    def __init__(self, client: LarkClient) -> None:
        self._client = client

    async def message(self, message_id: str) -> Sequence[Said]:
        """See Lookup.message."""
        page = await _twice(lambda: self._client.read_message(message_id))
        found = read_items(page.items, app_id=self._client.app_id)
        # The message itself comes first, wherever the platform puts it among the messages that it bundles.
        return sorted(found, key=lambda said: said.message_id != message_id) if _has(found, message_id) else ()

    async def recent(self, spot: Spot) -> Recent:
        """See Lookup.recent. Reads two pages at most; if they do not reach far enough, the answer is incomplete."""
        listed: list[Said] = []
        page_token = ""
        for _ in range(PAGES_MAX):
            try:
                page = await _twice(partial(self._page, spot, page_token))
            except PlatformError:
                if not listed:
                    raise
                break
            listed += read_items(page.items, app_id=self._client.app_id)
            page_token = page.next_token
            if len(spot.preceding(listed)) == spot.count or not page_token or spot.begins_in(listed):
                return _recent(listed, spot, complete=True)
        return _recent(listed, spot, complete=False)

    async def names(self, ids: Collection[str]) -> Mapping[str, str]:
        """See Lookup.names. One call; people beyond its limit stay unnamed."""
        wanted = sorted(ids)[:NAMES_MAX]
        return await _twice(lambda: self._client.people_names(wanted)) if wanted else {}

    async def bot_name(self) -> str:
        """See Lookup.bot_name."""
        return (await self._client.bot_info()).app_name

    async def _page(self, spot: Spot, page_token: str) -> ApiPage:
        return await self._client.list_messages(
            chat_id=spot.chat_id,
            thread_id=spot.thread_id,
            # The platform takes whole seconds, so the range is rounded outwards; the spot selects exactly.
            start=0 if spot.since is None else math.floor(spot.since.timestamp()),
            end=math.ceil(spot.before.timestamp()),
            page_token=page_token,
        )


def _recent(listed: Sequence[Said], spot: Spot, *, complete: bool) -> Recent:
    return Recent(tuple(reversed(spot.preceding(listed))), complete)


def _has(found: Sequence[Said], message_id: str) -> bool:
    return any(said.message_id == message_id for said in found)


async def _twice(call: Callable[[], Awaitable[T]]) -> T:
    """Call once more after PlatformUnavailable. Raises what the second try raised."""
    try:
        return await call()
    except PlatformUnavailable:
        return await call()
