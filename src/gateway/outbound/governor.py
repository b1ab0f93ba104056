"""Keeps one bot within its platform's limits, and stops calling for a while when the platform does not answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import trio

from gateway.channel.errors import PlatformThrottled, PlatformUnavailable
from gateway.core.pacing import UNLIMITED, AppPace, Limits
from gateway.recorder import SILENT, Recorder

logger = structlog.get_logger(__name__)


class Governor:
    """The pace of one app, on trio's clock. It lives as long as the lease: only the holder calls for the app."""

    def __init__(self, recorder: Recorder = SILENT, *, limits: Limits = UNLIMITED) -> None:
        """`limits` are those that the bot's platform declares."""
        self._pace = AppPace(limits)
        self._recorder = recorder

    def app_wait(self) -> float:
        """Seconds until the app may make any call. 0 unless its limits are used up or its calls are paused."""
        now = trio.current_time()
        return self._pace.app_free_at(now) - now

    def chat_wait(self, chat: str) -> float:
        """Seconds until that chat may get another message. Other chats do not wait for it."""
        now = trio.current_time()
        return self._pace.chat_free_at(chat, now) - now

    @asynccontextmanager
    async def turn(self, chat: str) -> AsyncIterator[None]:
        """Wait until the next message may go to that chat. The caller sends the message inside the block.

        Turns are given in the order of the calls. The turn is given back when the block ends or is cancelled.
        """
        now = trio.current_time()
        at = self._pace.reserve(chat, now)
        if at > now:
            self._recorder.count("outbound_pace", event="waited")
        try:
            await trio.sleep_until(at)
            self._recorder.count("outbound_pace", event="call")
            yield
        finally:
            self._pace.release(chat, at, trio.current_time())

    def admits_typing(self) -> bool:
        """Take a place for a call that shows or removes a typing sign. False when messages need the room."""
        admitted = self._pace.admit_decoration(trio.current_time())
        self._recorder.count("outbound_pace", event="call" if admitted else "typing_skipped")
        return admitted

    def learn(self, chat: str, error: Exception | None) -> None:
        """Record how a call to that chat ended. `error` is None for a success."""
        if isinstance(error, PlatformThrottled):
            self._pace.answered()
            self._pace.throttled(None if error.whole_app else chat, trio.current_time(), error.retry_after)
            self._recorder.count("outbound_pace", event="throttled_app" if error.whole_app else "throttled_chat")
        elif not isinstance(error, PlatformUnavailable):
            self._pace.answered()
        elif seconds := self._pace.unanswered(trio.current_time()):
            self._recorder.count("outbound_pace", event="breaker_opened")
            logger.warning("platform_left_alone", seconds=seconds)
