"""What older versions did not store, learnt at a start: softly, and without undoing what was stored meanwhile."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio

from gateway.channel.errors import PlatformUnavailable
from gateway.errors import StoreConflict, StoreUnavailable
from gateway.keyring import KeyRing
from gateway.lark.api.client import BotIdentity
from gateway.lark.api.region import Region
from gateway.lark.chat.content import CHANNEL_TYPE
from gateway.lark.install import backfill
from gateway.lark.install.backfill import label_regions, learn_union_ids
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from support.lark_directory import add_installation, add_place

RING = KeyRing([b"\x07" * 32])
INTERNATIONAL = "https://OPEN.larksuite.com/"
UNTOUCHED = "app_secret_encrypted"


class Rows:
    """Bots of one workspace, by their app id."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.store = PostgresInstallationStore(pool)

    async def add(self, number: int, **config: Any) -> UUID:
        place = await add_place(self.pool, f"acme{number}")
        bot = await add_installation(self.pool, place, app_id(number))
        sealed = RING.seal_text(f"fake-secret-{number}", owner=bot)
        await self.merge(bot, {"app_secret_encrypted": sealed, **config})
        return bot

    async def merge(self, bot: UUID, config: dict[str, Any]) -> None:
        await self.sql(
            "update channel_installation set config = config || %s::jsonb where id = %s",
            msgspec.json.encode(config).decode(),
            bot,
        )

    async def key(self, name: str) -> dict[str, str | None]:
        return dict(
            await self.sql("select config ->> 'app_id', config ->> %s from channel_installation order by 1", name)
        )

    async def sql(self, statement: str, *values: Any) -> list[Any]:
        async with self.pool.connection() as conn:
            cursor = await conn.execute(statement.encode(), values)
            return list(await cursor.fetchall()) if cursor.description else []


def app_id(number: int) -> str:
    return f"cli_{number:016}"


@pytest.fixture
def rows(pool: Pool) -> Rows:
    return Rows(pool)


async def test_regions_at_the_default_are_relabelled_where_every_call_was_international(rows: Rows) -> None:
    await rows.add(1)
    await rows.add(2, region="feishu")
    await rows.add(3, region="lark")
    sealed = await rows.key(UNTOUCHED)
    assert await label_regions(rows.store, INTERNATIONAL) == 2
    assert await rows.key("region") == {app_id(1): "lark", app_id(2): "lark", app_id(3): "lark"}
    assert await rows.key(UNTOUCHED) == sealed
    assert await label_regions(rows.store, INTERNATIONAL) == 0


@pytest.mark.parametrize("override", [None, "", "https://open.feishu.cn", "open.larksuite.com", "http://127.0.0.1:9"])
async def test_regions_stay_where_nothing_is_known(rows: Rows, override: str | None) -> None:
    await rows.add(1)
    assert await label_regions(rows.store, override) == 0
    assert await rows.key("region") == {app_id(1): None}


@pytest.mark.parametrize("region", ["mars", "", 7])
async def test_region_that_does_not_exist_cannot_be_stored(rows: Rows, region: object) -> None:
    bot = await rows.add(1)
    with pytest.raises(StoreConflict, match="channel_installation_region_check"):
        await rows.merge(bot, {"region": region})


async def test_region_of_an_app_that_was_exchanged_meanwhile_stays(rows: Rows) -> None:
    bot = await rows.add(1)
    (read,) = await rows.store.without_key(CHANNEL_TYPE, "region", default="feishu")
    await rows.merge(bot, {"app_id": app_id(9)})
    assert not await rows.store.set_key(read, "region", "lark", default="feishu")
    await rows.merge(bot, {"app_id": app_id(1), "region": "lark"})
    assert not await rows.store.set_key(read, "region", "lark", default="feishu")


async def test_union_ids_are_learnt_of_active_bots_that_lack_one(rows: Rows, pool: Pool) -> None:
    await rows.add(1)
    await rows.add(2, region="lark")
    await rows.add(3, bot_union_id="on_known")
    revoked, orphan = await rows.add(4), await rows.add(5)
    await rows.sql("update channel_installation set status = 'revoked' where id = %s", revoked)
    await rows.sql("update channel_installation set agent_id = gen_random_uuid() where id = %s", orphan)
    asked = []

    async def identify(app: str, secret: str, region: Region) -> BotIdentity:
        asked.append((app, secret, region.value))
        return BotIdentity("ou_bot", f"on_{app}")

    assert await learn_union_ids(rows.store, RING, identify) == 2
    assert asked == [(app_id(1), "fake-secret-1", "feishu"), (app_id(2), "fake-secret-2", "lark")]
    assert await rows.key("bot_union_id") == {
        app_id(1): f"on_{app_id(1)}",
        app_id(2): f"on_{app_id(2)}",
        app_id(3): "on_known",
        app_id(4): None,
        app_id(5): None,
    }


async def test_union_id_that_cannot_be_learnt_costs_no_other_row(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "ROW_SECONDS", 0.2)
    for number in range(1, 7):
        await rows.add(number)
    await rows.sql(
        'update channel_installation set config = config || \'{"app_secret_encrypted": "eA=="}\' '
        "where config ->> 'app_id' = %s",
        app_id(1),
    )
    await rows.sql(
        "update channel_installation set config = config - 'app_secret_encrypted' where config ->> 'app_id' = %s",
        app_id(2),
    )

    async def identify(app: str, _secret: str, _region: Region) -> BotIdentity:
        if app == app_id(3):
            raise PlatformUnavailable("away")
        if app == app_id(4):
            await trio.sleep_forever()
        return BotIdentity("ou_bot", "" if app == app_id(5) else "on_bot")

    assert await learn_union_ids(rows.store, RING, identify) == 1
    assert [app for app, union_id in (await rows.key("bot_union_id")).items() if union_id] == [app_id(6)]


async def test_database_that_is_away_is_no_error(rows: Rows) -> None:
    class Away(PostgresInstallationStore):
        async def without_key(self, *_: Any, **__: Any) -> Any:
            raise StoreUnavailable("away")

    async def identify(*_: Any) -> BotIdentity:
        raise AssertionError

    assert await label_regions(Away(rows.pool), INTERNATIONAL) == 0
    assert await learn_union_ids(Away(rows.pool), RING, identify) == 0
