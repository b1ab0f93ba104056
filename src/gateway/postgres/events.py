"""Announcements that a transaction makes when it commits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from gateway.postgres.driver import TrioConnection
from gateway.postgres.statements import SqlFile

_SQL = SqlFile("event.sql")
_ANNOUNCE_EVENT = _SQL.count("announce_event")
_RING_RUNTIME = _SQL.count("ring_runtime")


async def announce(conn: TrioConnection[Any], event: str, fields: Mapping[str, Any]) -> None:
    """Announce an event to live listeners when the transaction commits. `fields` hold ids only."""
    await _ANNOUNCE_EVENT(conn, payload=msgspec.json.encode({"event": event, **fields}).decode())


async def ring_runtime(conn: TrioConnection[Any], agent_id: UUID) -> None:
    """Wake the requests that wait for work of this agent, when the transaction commits."""
    await _RING_RUNTIME(conn, agent_id=agent_id)
