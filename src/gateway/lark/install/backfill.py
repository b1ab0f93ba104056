"""Completes bots with values that older versions did not store, once at every start, one row after the other.

Nothing waits for this, and nothing depends on it. A row that cannot be completed now is tried again at the next start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog
import trio

from gateway.channel.installation import StoredApp
from gateway.errors import GatewayError, StoreUnavailable
from gateway.keyring import KeyRing, open_config
from gateway.lark.api.region import Region, is_international
from gateway.lark.chat.content import CHANNEL_TYPE
from gateway.lark.install.service import Identify

_log = structlog.get_logger()

ROW_SECONDS = 10.0
"""The time limit of one row."""


class BackfillStore(Protocol):
    """Access to rows that lack values older versions did not store. Both methods raise StoreUnavailable."""

    async def without_key(
        self, channel_type: str, key: str, *, default: str = "", served_only: bool = False
    ) -> Sequence[StoredApp]:
        """Return the rows whose config has no value for a key, or its default.

        With `served_only`, revoked rows are left out, and those whose agent or workspace is gone.
        """

    async def set_key(self, app: StoredApp, key: str, value: str, *, default: str = "") -> bool:
        """Set one key of a row's config, if the row still has that app and the key is still at its default.

        Returns True if the key was set.
        """


async def label_regions(store: BackfillStore, open_base_override: str | None) -> int:
    """Set the region `lark` in rows at the default region, if `open_base_override` names the international platform.

    With that override, every call of these bots went to the international platform all the time. With any other
    override, or none, their true region is unknown, and nothing is changed. Returns the number of changed rows.
    """
    if not is_international(open_base_override):
        return 0
    labelled = 0
    try:
        for app in await store.without_key(CHANNEL_TYPE, "region", default=Region.FEISHU.value):
            with trio.move_on_after(ROW_SECONDS):
                labelled += await store.set_key(app, "region", Region.LARK.value, default=Region.FEISHU.value)
    except StoreUnavailable as error:
        _log.warning("lark_regions_not_labelled", error=str(error))
    if labelled:
        _log.info("lark_regions_labelled", region=Region.LARK.value, installations=labelled)
    return labelled


async def learn_union_ids(store: BackfillStore, ring: KeyRing, identify: Identify) -> int:
    """Ask the platform for the union id of every active bot that lacks one. Return how many were stored."""
    learnt = 0
    try:
        for app in await store.without_key(CHANNEL_TYPE, "bot_union_id", served_only=True):
            learnt += await _learn_union_id(store, ring, identify, app)
    except StoreUnavailable as error:
        _log.warning("lark_union_ids_not_learnt", error=str(error))
    return learnt


async def _learn_union_id(store: BackfillStore, ring: KeyRing, identify: Identify, app: StoredApp) -> bool:
    with trio.move_on_after(ROW_SECONDS):
        try:
            secrets = open_config(app.config, ring, app.id)
            bot = await identify(app.app_id, secrets["app_secret"], Region.of(app.config.get("region")))
            return bool(bot.union_id) and await store.set_key(app, "bot_union_id", bot.union_id)
        except StoreUnavailable:
            raise
        except GatewayError as error:
            _log.info("lark_union_id_not_learnt", installation_id=str(app.id), error=str(error))
        except Exception:
            # An unforeseen fault in one row must not keep the others from being completed.
            _log.exception("lark_union_id_backfill_failed", installation_id=str(app.id))
    return False
