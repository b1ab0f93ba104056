"""Read access to the log of deliveries."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any
from uuid import UUID

from gateway.errors import NotFound
from gateway.webhooks.ports import Delivery, DeliveryDetail, DeliveryFilter, LogStore


class DeliveryLog:
    """The log of deliveries as members of a workspace see it. The caller must check the membership."""

    def __init__(self, store: LogStore) -> None:
        self._store = store

    async def page(
        self, workspace_id: UUID, autopilot_id: UUID | None, wanted: DeliveryFilter, *, limit: int, offset: int
    ) -> tuple[list[Delivery], int]:
        """Return a page of deliveries, newest first, and their total number.

        Without an autopilot these are the deliveries of the whole workspace.
        """
        if autopilot_id is None:
            rows = await self._store.workspace_page(workspace_id, wanted, limit, offset)
        else:
            rows = await self._store.page(autopilot_id, wanted, limit, offset)
        return rows, await self._store.count(workspace_id, autopilot_id, wanted)

    async def find(self, autopilot_id: UUID, delivery_id: UUID) -> dict[str, Any]:
        """Return a whole delivery in a form that JSON can hold. Raises NotFound."""
        found = await self._store.find(autopilot_id, delivery_id)
        if found is None:
            raise NotFound("delivery_not_found", "this autopilot has no such delivery")
        return _whole(found)


def _whole(delivery: DeliveryDetail) -> dict[str, Any]:
    body, encoding = _shown_body(delivery.raw_body)
    return {**asdict(delivery), "raw_body": body, "raw_body_encoding": encoding}


def _shown_body(body: bytes | None) -> tuple[str | None, str | None]:
    """Return the body and its encoding: as text if it is UTF-8, else in base64."""
    if body is None:
        return None, None
    try:
        return body.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), "base64"
