"""Files in messages, fetched through the client of the bot that received them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from gateway.channel.errors import PlatformError, PlatformThrottled, PlatformUnavailable
from gateway.core.attachments import FetchProblem
from gateway.errors import GatewayError, StoreUnavailable
from gateway.lark.api.client import LarkClient
from gateway.work.tasks.attachments import FetchFailed, FileSink, StoredAttachment

ClientOf = Callable[[UUID], Awaitable[LarkClient]]
"""The client of an installation. Raises a GatewayError for one that is revoked, unknown or has an unreadable secret."""

# The bot left the chat, the message was recalled, deleted or is gone, or the platform does not give out this kind.
_GONE = frozenset({230002, 230011, 230110, 230111, 231003, 234003, 234004, 234043})
_TOO_LARGE = 234037


class LarkFiles:
    """Implements gateway.work.tasks.attachments.FileSource."""

    def __init__(self, client_of: ClientOf) -> None:
        self._client_of = client_of

    async def download(self, wanted: StoredAttachment, sink: FileSink) -> None:
        client = await self._client(wanted.installation_id)
        try:
            await client.download(
                message_id=wanted.channel_message_id,
                key=wanted.channel_key,
                resource_type="image" if wanted.kind == "image" else "file",
                sink=sink,
            )
        except PlatformError as error:
            raise _failure(error) from error

    async def _client(self, installation_id: UUID) -> LarkClient:
        try:
            return await self._client_of(installation_id)
        except StoreUnavailable as error:
            raise FetchFailed(FetchProblem.UNAVAILABLE, "the database does not answer", transient=True) from error
        except GatewayError as error:
            raise FetchFailed(FetchProblem.BOT_UNAVAILABLE, "the bot cannot be used any more") from error


def _failure(error: PlatformError) -> FetchFailed:
    if isinstance(error, PlatformThrottled):
        return FetchFailed(FetchProblem.UNAVAILABLE, str(error), transient=True, retry_after=error.retry_after)
    if isinstance(error, PlatformUnavailable):
        return FetchFailed(FetchProblem.UNAVAILABLE, str(error), transient=True)
    if error.code == _TOO_LARGE:
        return FetchFailed(FetchProblem.TOO_LARGE, str(error))
    if error.code in _GONE:
        return FetchFailed(FetchProblem.NOT_AVAILABLE, str(error))
    return FetchFailed(FetchProblem.REFUSED, str(error))
