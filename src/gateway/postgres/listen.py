"""Notifications, on a connection of their own, because psycopg holds a connection's lock while it listens."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any

import psycopg
import structlog
import trio
from psycopg import sql

from gateway.errors import ConfigError, StoreUnavailable
from gateway.postgres.driver import TrioConnection

# A connection can be dead without any sign. Its silence then looks like the absence of notifications.
CHECK_SECONDS = 20.0
CHECK_TIMEOUT_SECONDS = 5.0
RETRY_FIRST_SECONDS = 0.1
RETRY_MAX_SECONDS = 5.0
# Where no notification can arrive, everything is looked at this often: a chat should not feel it.
POLL_SECONDS = 1.0
RARE_POLL_SECONDS = 10.0
# So often it is tried again whether notifications have become possible.
POLLING_SECONDS = 60.0

log = structlog.get_logger()


class NotificationsUnavailable(ConfigError):
    """LISTEN is of no use here, because transactions of one connection may run in different sessions."""


Connect = Callable[[], Awaitable[TrioConnection[Any]]]


async def run_listener(
    connect: Connect,
    callbacks: Mapping[str, Callable[[str], None]],
    *,
    rarely: Collection[str] = (),
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `callbacks[channel](payload)` for every NOTIFY on those channels, until cancelled.

    After each connect every callback is called with "", which means that anything may have changed: notifications that
    were sent while no connection listened are lost. `started()` comes after the first of these calls. A lost connection
    is made again after 0.1 s, doubling to 5 s, with jitter. A callback must not block. An exception of a callback ends
    the listener.

    If `connect` raises NotificationsUnavailable, that is logged once, and every callback is called with "" each second,
    or every 10 s if its channel is one of `rarely`. Once a minute it is tried to connect again.
    """
    delay = RETRY_FIRST_SECONDS
    first, told = True, False
    while True:
        try:
            async with await connect() as connection:
                await _listen(connection, callbacks)
                log.info("listening", channels=sorted(callbacks))
                _ring_all(callbacks)
                delay, told = RETRY_FIRST_SECONDS, False
                if first:
                    first = False
                    task_status.started()
                await _deliver(connection, callbacks)
        except NotificationsUnavailable as error:
            if not told:
                log.warning("notifications_unavailable", because=str(error), poll_seconds=POLL_SECONDS)
                told = True
            _ring_all(callbacks)
            if first:
                first = False
                task_status.started()
            await _poll(callbacks, rarely)
            continue
        except (psycopg.OperationalError, psycopg.InterfaceError, StoreUnavailable, trio.TooSlowError) as error:
            log.warning("listener_lost", error=type(error).__name__, retry_seconds=delay)
        await trio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 (spreads retries, nothing secret)
        delay = min(delay * 2, RETRY_MAX_SECONDS)


async def _listen(connection: TrioConnection[Any], channels: Mapping[str, Any]) -> None:
    statements = [sql.SQL("listen {}").format(sql.Identifier(channel)) for channel in channels]
    await connection.execute(sql.SQL(";").join(statements))


async def _poll(callbacks: Mapping[str, Callable[[str], None]], rarely: Collection[str]) -> None:
    """Call the callbacks again and again, for POLLING_SECONDS."""
    often = {channel: callback for channel, callback in callbacks.items() if channel not in rarely}
    end = trio.current_time() + POLLING_SECONDS
    next_rare = trio.current_time() + RARE_POLL_SECONDS
    while trio.current_time() < end:
        await trio.sleep(POLL_SECONDS)
        is_rare = trio.current_time() >= next_rare
        if is_rare:
            next_rare += RARE_POLL_SECONDS
        _ring_all(callbacks if is_rare else often)


def _ring_all(callbacks: Mapping[str, Callable[[str], None]]) -> None:
    for callback in callbacks.values():
        callback("")


async def _deliver(connection: TrioConnection[Any], callbacks: Mapping[str, Callable[[str], None]]) -> None:
    """Deliver notifications until the connection breaks. Tests it after CHECK_SECONDS without a notification."""
    while True:
        async with aclosing(connection.notifies(timeout=CHECK_SECONDS)) as notifications:
            async for notification in notifications:
                callbacks[notification.channel](notification.payload)
        with trio.fail_after(CHECK_TIMEOUT_SECONDS):
            await connection.execute("select")
