"""Scans from code to bot, on a real Postgres and against a platform that says what a test tells it to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from gateway.channel.installs import ScanRequest, ScanStatus
from gateway.errors import Conflict, Invalid, NotFound, StoreUnavailable, TooMany, UpstreamFailed
from gateway.keyring import KeyRing
from gateway.lark.api.client import open_http_client
from gateway.lark.install import scan as installs
from gateway.lark.install.scan import ScanService, ask_over, run_installs
from gateway.lark.install.service import InstallationService, NewApp, identify_over
from gateway.lark.install.session import BegunScan
from gateway.postgres.driver import TrioConnection
from gateway.postgres.install_store import PostgresInstallStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from gateway.postgres.secret_store import secret_tables
from gateway.work.secrets import ResealResult, Rotation, rotate_secrets
from support.device_flow import (
    APP_ID,
    APP_SECRET,
    DENIED,
    DEVICE_CODE,
    PATH,
    SLOW_DOWN,
    DeviceFlow,
    granted,
    of_brand,
)
from support.lark_directory import Place, add_agent, add_member, add_person, add_place
from support.lark_rest import BOT_PATH, TOKEN_PATH, Call, FakePlatform, Reply, serving_platform
from support.purging import purge

RING = KeyRing([b"\x07" * 32])
OTHER_APP_ID = "cli_0123456789abcdef"


@dataclass
class ScanInstall:
    database: str
    pool: Pool
    place: Place
    platform: FakePlatform
    flow: DeviceFlow
    scans: ScanService
    bots: InstallationService
    new_scans: Any
    scans_with: Any

    def request(self, **changes: Any) -> ScanRequest:
        asked = ScanRequest(self.place.workspace_id, self.place.agent_id, "ada", self.place.owner_id, "feishu")
        return replace(asked, **changes)

    async def begin(self, **changes: Any) -> BegunScan:
        return await self.scans.begin(self.request(**changes))

    async def status(self, begun: BegunScan) -> ScanStatus:
        found = await self.scans.status(begun.session_id, self.place.workspace_id)
        assert found is not None
        return found

    async def step(self, scans: ScanService | None = None) -> None:
        """The next step, however long the session was told to wait."""
        await self.sql("update lark_install_session set next_poll_at = now()")
        at = scans or self.scans
        scan = await at.take()
        assert scan is not None
        await at.advance(scan)

    async def sql(self, statement: str, *values: Any) -> list[Any]:
        async with self.pool.connection() as conn:
            cursor = await conn.execute(statement.encode(), values)
            return list(await cursor.fetchall()) if cursor.description else []

    async def row(self) -> dict[str, Any]:
        ((row,),) = await self.sql("select to_jsonb(s) from lark_install_session s")
        return dict(row)


@pytest.fixture
async def install(database: str, pool: Pool) -> AsyncIterator[ScanInstall]:
    place = await add_place(pool)
    async with serving_platform() as platform, open_http_client() as http:

        def scans_with(ring: KeyRing) -> ScanService:
            bots = InstallationService(PostgresInstallationStore(pool), ring, identify_over(http, platform.base_url))
            return ScanService(
                PostgresInstallStore(pool), bots, ring, ask_over(http), accounts_base_override=platform.base_url
            )

        def new_scans() -> ScanService:
            return scans_with(RING)

        bots = InstallationService(PostgresInstallationStore(pool), RING, identify_over(http, platform.base_url))
        yield ScanInstall(
            database, pool, place, platform, DeviceFlow(platform), new_scans(), bots, new_scans, scans_with
        )


@asynccontextmanager
async def heard_events(database: str) -> AsyncIterator[list[Any]]:
    """What was told to live listeners during the block."""
    heard: list[Any] = []
    async with await TrioConnection.connect(database, autocommit=True) as conn:
        await conn.execute("listen gateway_event")
        yield heard
        await conn.execute("select 1")
        heard += [msgspec.json.decode(note.payload) async for note in conn.notifies(timeout=0.05)]


# --- a scan that goes well --------------------------------------------------------------------------------------------


async def test_scan_connects_the_bot_and_binds_who_scanned(install: ScanInstall) -> None:
    begun = await install.begin()
    assert begun.qr_code_url.startswith("https://accounts.feishu.cn/verify?user_code=AB-CD&from=sdk&tp=sdk&")
    assert "&name=ada&addons=" in begun.qr_code_url
    assert (await install.status(begun)).public() == {"status": "pending"}
    await install.step()
    assert (await install.status(begun)).public() == {"status": "pending"}
    install.flow.polls = [granted()]
    async with heard_events(install.database) as heard:
        await install.step()
    (bot,) = await install.bots.list()
    assert (await install.status(begun)).public() == {"status": "success", "installation_id": bot.id}
    assert (bot.agent_id, bot.app_id, bot.details["region"], bot.details["bot_open_id"]) == (
        install.place.agent_id,
        APP_ID,
        "feishu",
        "ou_bot",
    )
    assert (bot.status, bot.installer_user_id) == ("active", install.place.owner_id)
    ((config,),) = await install.sql("select config from channel_installation")
    assert RING.open_text(config["app_secret_encrypted"], owner=bot.id) == APP_SECRET
    assert config["bot_union_id"] == "on_bot"
    assert await install.sql("select installation_id, channel_user_id, user_id from channel_user_binding") == [
        (bot.id, "ou_eve", install.place.owner_id)
    ]
    assert heard == [
        {
            "event": "lark_installation:created",
            "workspace_id": str(install.place.workspace_id),
            "installation_id": str(bot.id),
            "agent_id": str(install.place.agent_id),
            "channel_type": "feishu",
        }
    ]
    row = await install.row()
    assert (row["device_code"], row["credentials"], row["poller"]) == (None, None, None)


async def test_scan_of_the_other_cloud_moves_once_and_asks_there_at_once(install: ScanInstall) -> None:
    await install.begin()
    install.flow.polls = [of_brand("lark"), granted(brand="lark")]
    await install.step()
    ((region, polled, due),) = await install.sql(
        "select region, polled_region, next_poll_at <= now() from lark_install_session"
    )
    assert (region, polled, due) == ("feishu", "lark", True)
    scan = await install.scans.take()
    assert scan is not None
    await install.scans.advance(scan)
    (bot,) = await install.bots.list()
    assert bot.details["region"] == "lark"
    assert install.scans.shown(bot, None)["console_url"] == f"https://open.larksuite.com/app/{APP_ID}"


@pytest.mark.parametrize(
    ("region", "hosts"),
    [
        ("feishu", ["https://accounts.feishu.cn", "https://accounts.feishu.cn", "https://accounts.larksuite.com"]),
        (
            "lark",
            ["https://accounts.larksuite.com", "https://accounts.larksuite.com", "https://accounts.larksuite.com"],
        ),
    ],
)
async def test_scan_asks_the_hosts_of_its_region(install: ScanInstall, region: str, hosts: list[str]) -> None:
    asked: list[str] = []
    through = install.scans._ask

    async def ask(base_url: str, request: Any) -> Any:
        asked.append(base_url)
        return await through(install.platform.base_url, request)

    scans = ScanService(PostgresInstallStore(install.pool), install.bots, RING, ask)
    await scans.begin(install.request(region=region))
    install.flow.polls = [of_brand("lark"), granted(brand="lark")]
    await install.step(scans)
    await install.step(scans)
    assert asked == hosts
    if region == "lark":
        # It is where it belongs: an empty secret means that nobody has agreed yet.
        assert [row.details["region"] for row in await install.bots.list()] == ["lark"]


async def test_scan_for_an_agent_with_a_revoked_bot_brings_the_row_and_its_people_back(install: ScanInstall) -> None:
    app = NewApp(agent_id=install.place.agent_id, app_id="cli_0123456789abcdef", app_secret="fake-old")
    old = (await install.bots.add(app)).installation
    other = await add_person(install.pool, "bob@acme.example")
    await install.sql(
        "insert into channel_user_binding (id, workspace_id, user_id, installation_id, channel_type, channel_user_id) "
        "values (%s, %s, %s, %s, 'feishu', 'ou_bob')",
        uuid4(),
        install.place.workspace_id,
        other,
        old.id,
    )
    await install.bots.revoke(old.id)
    begun = await install.begin()
    install.flow.polls = [granted()]
    await install.step()
    assert (await install.status(begun)).installation_id == old.id
    (bot,) = await install.bots.list()
    assert (bot.id, bot.app_id, bot.status) == (old.id, APP_ID, "active")
    assert len(await install.sql("select 1 from channel_user_binding")) == 2


async def test_scan_reclaims_the_row_of_an_app_that_was_revoked_elsewhere(install: ScanInstall) -> None:
    elsewhere = await add_agent(install.pool, install.place.workspace_id, "bob")
    dead = (await install.bots.add(NewApp(elsewhere, APP_ID, "fake-old"))).installation
    await install.bots.revoke(dead.id)
    await install.begin()
    install.flow.polls = [granted()]
    await install.step()
    (bot,) = await install.bots.list()
    assert bot.agent_id == install.place.agent_id
    assert bot.id != dead.id


# --- what goes wrong on the way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(raw=b"<html>bad gateway</html>", status=502), "http_502"),
        (Reply({}, status=503), "http_503"),
        (Reply(raw=b"", status=200), "http_200"),
        (Reply(close=True), "no_answer"),
    ],
)
async def test_poll_without_a_usable_answer_is_told_and_goes_on(
    install: ScanInstall, reply: Reply, problem: str
) -> None:
    begun = await install.begin()
    install.flow.polls = [reply]
    await install.step()
    assert (await install.status(begun)).public() == {"status": "pending", "error_message": problem}
    await install.step()
    assert (await install.status(begun)).public() == {"status": "pending"}
    install.flow.polls = [granted()]
    await install.step()
    assert (await install.status(begun)).status == "success"


async def test_slow_down_makes_every_later_poll_wait_longer(install: ScanInstall) -> None:
    await install.begin()
    install.flow.polls = [SLOW_DOWN]
    await install.step()
    ((interval, wait),) = await install.sql(
        "select interval_seconds, extract(epoch from next_poll_at - now())::float8 from lark_install_session"
    )
    assert interval == 5.05
    assert 4.5 < wait <= 5.05
    await install.step()
    assert (await install.row())["interval_seconds"] == 5.05


@pytest.mark.parametrize(
    ("reply", "reason", "message"),
    [
        (DENIED, "access_denied", "access_denied"),
        (Reply({"error": "expired_token"}), "expired", "expired_token"),
        (Reply({"error": "invalid_grant"}, status=400), "expired", "invalid_grant"),
        (Reply({"error": "weather"}), "lark_protocol_error", "weather"),
        (granted(open_id=""), "lark_protocol_error", "invalid_response"),
    ],
)
async def test_poll_that_ends_it_says_why(install: ScanInstall, reply: Reply, reason: str, message: str) -> None:
    begun = await install.begin()
    install.flow.polls = [reply, granted()]
    await install.step()
    assert (await install.status(begun)).public() == {
        "status": "error",
        "error_reason": reason,
        "error_message": message,
    }
    assert await install.scans.take(begun.session_id) is None
    assert await install.bots.list() == []


async def test_scan_that_nobody_makes_expires_at_its_deadline(install: ScanInstall) -> None:
    begun = await install.begin()
    install.flow.polls = [Reply(raw=b"", status=502)] * 2
    await install.step()
    await at_the_deadline(install)
    status = await install.status(begun)
    assert (status.error_reason, len(install.flow.polled)) == ("expired", 2)
    assert "http_502" in status.error_message


async def at_the_deadline(install: ScanInstall) -> None:
    await install.sql("update lark_install_session set deadline = now(), next_poll_at = now() + interval '1 hour'")
    scan = await install.scans.take()
    assert scan is not None
    await install.scans.advance(scan)


async def test_scan_of_the_last_second_or_while_nobody_asked_is_not_lost(install: ScanInstall) -> None:
    begun = await install.begin()
    install.flow.polls = [of_brand("lark"), granted(brand="lark")]
    await at_the_deadline(install)
    assert (await install.status(begun)).status == "pending"  # to be asked for at the other cloud, once more
    await install.step()
    assert (await install.status(begun)).status == "success"
    assert len(install.flow.polled) == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (DENIED, "access_denied"),
        (SLOW_DOWN, "expired"),
        (Reply({"error": "expired_token"}, status=400), "expired"),
        (Reply({"error": "unknown_device_code"}, status=400), "expired"),
        (Reply(close=True), "expired"),
    ],
)
async def test_scan_that_is_over_ends_with_its_last_answer(install: ScanInstall, reply: Reply, reason: str) -> None:
    begun = await install.begin()
    install.flow.polls = [reply]
    await at_the_deadline(install)
    assert (await install.status(begun)).error_reason == reason


async def test_bot_that_the_platform_cannot_name_yet_is_asked_for_again(install: ScanInstall) -> None:
    begun = await install.begin()
    install.flow.polls = [granted()]
    install.platform.script(BOT_PATH, Reply(raw=b"", status=503), Reply({"code": 99991400, "msg": "slow"}, status=429))
    await install.step()
    status = await install.status(begun)
    assert (status.status, "503" in status.error_message) == ("pending", True)
    await install.step()
    await install.step()
    assert (await install.status(begun)).status == "success"
    assert len(install.flow.polled) == 1  # what was granted is not asked for twice


async def test_bot_that_the_platform_never_names_gives_up_in_the_end(install: ScanInstall) -> None:
    begun = await install.begin()
    install.flow.polls = [granted()]
    install.platform.script(BOT_PATH, *[Reply(raw=b"", status=503)] * 2)
    await install.step()
    await install.sql("update lark_install_session set deadline = now()")
    await install.step()
    assert (await install.status(begun)).error_reason == "bot_info_failed"


async def test_bot_that_the_platform_refuses_is_bot_info_failed(install: ScanInstall) -> None:
    begun = await install.begin()
    install.flow.polls = [granted()]
    install.platform.script(TOKEN_PATH, Reply({"code": 10014, "msg": "app secret invalid"}))
    await install.step()
    status = await install.status(begun)
    assert (status.error_reason, APP_SECRET in status.error_message) == ("bot_info_failed", False)
    assert await install.bots.list() == []


async def test_app_of_a_live_bot_of_another_agent_is_a_conflict(install: ScanInstall) -> None:
    elsewhere = await add_agent(install.pool, install.place.workspace_id, "bob")
    live = (await install.bots.add(NewApp(elsewhere, APP_ID, "fake-old"))).installation
    begun = await install.begin()
    install.flow.polls = [granted()]
    await install.step()
    status = await install.status(begun)
    assert (status.error_reason, str(live.id) in status.error_message) == ("installation_conflict", True)
    assert await install.bots.list() == [live]
    assert await install.sql("select 1 from channel_user_binding") == []


async def test_agent_that_was_archived_meanwhile_is_a_conflict(install: ScanInstall) -> None:
    begun = await install.begin()
    await install.sql("update agent set archived_at = now()")
    install.flow.polls = [granted()]
    await install.step()
    assert (await install.status(begun)).error_reason == "installation_conflict"


async def test_installer_who_is_no_member_any_more_leaves_nothing_behind(install: ScanInstall) -> None:
    begun = await install.begin()
    await install.sql("delete from member")
    install.flow.polls = [granted()]
    async with heard_events(install.database) as heard:
        await install.step()
    assert (await install.status(begun)).error_reason == "installer_bind_failed"
    assert heard == []
    assert await install.sql("select 1 from channel_installation") == []


async def test_account_that_is_somebody_elses_leaves_the_old_bot_as_it_was(install: ScanInstall) -> None:
    old = (await install.bots.add(NewApp(install.place.agent_id, APP_ID, "fake-old"))).installation
    other = await add_person(install.pool, "bob@acme.example")
    await install.sql(
        "insert into channel_user_binding (id, workspace_id, user_id, installation_id, channel_type, channel_user_id) "
        "values (%s, %s, %s, %s, 'feishu', 'ou_eve')",
        uuid4(),
        install.place.workspace_id,
        other,
        old.id,
    )
    before = await install.sql("select to_jsonb(i) from channel_installation i")
    begun = await install.begin(replaces=True)
    install.flow.polls = [granted()]
    await install.step()
    assert (await install.status(begun)).error_reason == "installer_bind_failed"
    assert await install.sql("select to_jsonb(i) from channel_installation i") == before


# --- a bot in place, and the right to connect one ---------------------------------------------------------------------


async def test_begin_for_an_agent_with_a_live_bot_is_refused_before_the_platform_is_asked(install: ScanInstall) -> None:
    old = (await install.bots.add(NewApp(install.place.agent_id, OTHER_APP_ID, "fake-old"))).installation
    with pytest.raises(Conflict) as refused:
        await install.begin()
    assert refused.value.code == "agent_has_bot"
    assert OTHER_APP_ID in str(refused.value)
    assert install.flow.begun == 0
    begun = await install.begin(replaces=True)
    install.flow.polls = [granted()]
    await install.step()
    assert (await install.status(begun)).installation_id == old.id
    assert [bot.app_id for bot in await install.bots.list()] == [APP_ID]


async def test_bot_that_appears_while_a_code_waits_stays(install: ScanInstall) -> None:
    begun = await install.begin()
    old = (await install.bots.add(NewApp(install.place.agent_id, OTHER_APP_ID, "fake-old"))).installation
    install.flow.polls = [granted()]
    async with heard_events(install.database) as heard:
        await install.step()
    status = await install.status(begun)
    assert (status.status, status.error_reason) == ("error", "agent_has_bot")
    assert OTHER_APP_ID in status.error_message
    assert "replace" in status.error_message
    assert await install.bots.list() == [old]
    assert await install.sql("select 1 from channel_user_binding") == []
    assert heard == []
    assert (await install.row())["credentials"] is None


async def test_of_two_codes_that_are_scanned_at_once_one_is_the_bot(install: ScanInstall) -> None:
    codes = [await install.begin(), await install.begin()]
    install.flow.polls = [granted(app_id=APP_ID), granted(app_id=OTHER_APP_ID)]
    await install.sql("update lark_install_session set next_poll_at = now()")
    scans = [await install.scans.take() for _ in codes]
    async with trio.open_nursery() as nursery:
        for scan in scans:
            assert scan is not None
            nursery.start_soon(install.scans.advance, scan)
    ends = [await install.status(begun) for begun in codes]
    assert sorted((end.status, end.error_reason or "") for end in ends) == [("error", "agent_has_bot"), ("success", "")]
    assert len(await install.bots.list()) == 1


@pytest.mark.parametrize(
    ("role", "owns", "vouched", "reason"),
    [
        ("member", True, False, None),
        ("guest", True, False, "forbidden"),
        ("member", False, False, "forbidden"),
        ("admin", False, False, None),
        ("member", False, True, None),
    ],
)
async def test_right_of_who_began_is_judged_again_when_the_scan_ends(
    install: ScanInstall, role: str, owns: bool, vouched: bool, reason: str | None
) -> None:
    bob = await add_person(install.pool, "bob@acme.example")
    await add_member(install.pool, install.place.workspace_id, bob, "admin")
    begun = await install.begin(initiator_user_id=bob, vouched=vouched)
    await install.sql("update member set role = %s where user_id = %s", role, bob)
    await install.sql("update agent set owner_id = %s", bob if owns else install.place.owner_id)
    install.flow.polls = [granted()]
    await install.step()
    assert (await install.status(begun)).error_reason == reason
    assert len(await install.bots.list()) == (1 if reason is None else 0)


async def test_session_whose_key_is_gone_is_an_internal_error(install: ScanInstall) -> None:
    begun = await install.begin()
    await install.sql("update lark_install_session set device_code = '\\x00'")
    await install.step()
    assert (await install.status(begun)).error_reason == "internal_error"


async def test_step_that_nobody_foresaw_ends_this_scan_only(
    install: ScanInstall, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = await install.begin()
    monkeypatch.setattr(installs, "judge_poll", lambda *_, **__: 1 / 0)
    with capture_logs() as logs:
        await install.step()
    assert (await install.status(begun)).error_reason == "internal_error"
    assert any(entry["event"] == "lark_install_step_failed" for entry in logs)


async def test_session_goes_with_its_agent(install: ScanInstall) -> None:
    begun = await install.begin()
    await install.sql("delete from agent")
    assert await install.scans.take() is None
    assert await install.scans.status(begun.session_id, install.place.workspace_id) is None


@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (Reply(raw=b"", status=500), "http_500"),
        (Reply({"error": "invalid_request"}, status=400), "invalid_request"),
        (Reply(close=True), "no_answer"),
    ],
)
async def test_begin_that_the_platform_refuses_is_502_and_leaves_no_session(
    install: ScanInstall, begin: Reply, reason: str
) -> None:
    install.platform.script(PATH, begin)
    with pytest.raises(UpstreamFailed) as raised:
        await install.begin()
    assert raised.value.extra["reason"] == reason
    if reason == "no_answer":
        assert f"no answer from {install.platform.base_url}" in str(raised.value)
    assert await install.sql("select 1 from lark_install_session") == []


async def test_begin_for_an_agent_that_goes_meanwhile_is_404(install: ScanInstall) -> None:
    async def begin(_call: Call) -> Reply:
        await install.sql("delete from agent where id = %s", install.place.agent_id)
        return Reply(install.flow.begin)

    install.platform.script(PATH, begin)
    with pytest.raises(NotFound) as raised:
        await install.begin()
    assert raised.value.extra == {"field": "agent_id"}


async def test_begin_with_an_unknown_region_is_rejected_before_anything_is_asked(install: ScanInstall) -> None:
    with pytest.raises(Invalid) as raised:
        await install.begin(region="mars")
    assert raised.value.extra == {"field": "region"}
    assert install.flow.begun == 0


# --- several processes ------------------------------------------------------------------------------------------------


async def test_two_processes_take_one_step_at_a_time(install: ScanInstall) -> None:
    begun = await install.begin()
    await install.sql("update lark_install_session set next_poll_at = now()")
    taken = []

    async def take(scans: ScanService) -> None:
        taken.append(await scans.take())

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(take, install.new_scans())
    assert [scan.id for scan in taken if scan is not None] == [begun.session_id]


async def test_step_whose_lease_was_taken_over_changes_nothing(install: ScanInstall) -> None:
    begun = await install.begin()
    await install.sql("update lark_install_session set next_poll_at = now()")
    slow = await install.scans.take()
    assert slow is not None
    await install.sql("update lark_install_session set poller_until = now()")
    other = await install.new_scans().take()
    assert other is not None
    assert other.poller != slow.poller
    install.flow.polls = [DENIED, granted()]
    await install.scans.advance(slow)
    assert (await install.status(begun)).status == "pending"
    await install.new_scans().advance(other)
    assert (await install.status(begun)).status == "success"


async def test_first_end_is_the_end(install: ScanInstall) -> None:
    begun = await install.begin()
    install.flow.polls = [DENIED]
    await install.sql("update lark_install_session set next_poll_at = now()")
    scan = await install.scans.take()
    assert scan is not None
    await install.scans.advance(scan)
    install.flow.polls = [granted()]
    await install.scans.advance(scan)
    assert (await install.status(begun)).error_reason == "access_denied"
    assert await install.bots.list() == []


async def hang(_call: Call) -> Reply:
    await trio.sleep_forever()
    raise AssertionError


async def abandon(install: ScanInstall, path: str) -> None:
    """Cancel a step once it has asked for `path`."""
    asked = trio.Event()

    async def tell(call: Call) -> Reply:
        asked.set()
        return await hang(call)

    install.platform.script(path, tell)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(install.step)
        await asked.wait()
        nursery.cancel_scope.cancel()


async def test_step_that_is_cancelled_gives_the_session_back(install: ScanInstall) -> None:
    begun = await install.begin()
    await abandon(install, PATH)
    install.flow.polls = [granted()]
    await install.step(install.new_scans())
    assert (await install.status(begun)).status == "success"


async def test_scan_that_is_abandoned_after_the_grant_is_finished_by_another(install: ScanInstall) -> None:
    """The platform grants once: what it said is stored before anything is made of it."""
    begun = await install.begin()
    install.flow.polls = [granted()]
    await abandon(install, BOT_PATH)
    row = await install.row()
    assert (row["status"], row["credentials"] is not None) == ("pending", True)
    assert APP_SECRET not in str(row)
    await install.step(install.new_scans())
    assert (await install.status(begun)).status == "success"
    assert len(install.flow.polled) == 1


async def test_lease_of_a_slow_step_is_renewed(install: ScanInstall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installs, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(installs, "RENEW_SECONDS", 0.05)
    begun = await install.begin()
    answer, looked = trio.Event(), 0

    async def slowly(_call: Call) -> Reply:
        await answer.wait()
        return granted()

    install.flow.polls = [slowly]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(install.step)
        while not install.flow.polled:
            await trio.sleep(0.01)
        with trio.move_on_after(1):
            while True:
                assert await install.new_scans().take() is None
                looked += 1
        answer.set()
    assert looked > 1
    assert (await install.status(begun)).status == "success"


async def test_step_that_lost_its_lease_stops(install: ScanInstall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installs, "RENEW_SECONDS", 0.05)
    begun = await install.begin()
    install.flow.polls = [hang]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(install.step)
        while not install.flow.polled:
            await trio.sleep(0.01)
        await install.sql("update lark_install_session set poller = gen_random_uuid()")
    assert (await install.status(begun)).status == "pending"


async def test_database_that_is_away_leaves_the_session_pending(
    install: ScanInstall, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = await install.begin()

    async def away(*_: Any, **__: Any) -> bool:
        raise StoreUnavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(PostgresInstallStore, "put_back", away)
        await install.step()
    assert (await install.status(begun)).status == "pending"
    install.flow.polls = [granted()]
    await install.step()
    assert (await install.status(begun)).status == "success"


async def test_grant_waits_for_a_database_that_is_away_whoever_took_the_scan_meanwhile(
    install: ScanInstall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform said it once, and the secret is nowhere else."""
    monkeypatch.setattr(installs, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(installs, "KEEP_RETRY_SECONDS", 0.05)
    begun = await install.begin()
    install.flow.polls = [granted()]
    store, tries = PostgresInstallStore.grant, 0

    async def away(*given: Any, **more: Any) -> bool:
        nonlocal tries
        tries += 1
        if tries == 1:
            await install.sql("update lark_install_session set poller = gen_random_uuid()")
        if tries < 4:
            raise StoreUnavailable("away")
        return await store(*given, **more)

    with capture_logs() as logs:
        monkeypatch.setattr(PostgresInstallStore, "grant", away)
        await install.step()
    assert (await install.status(begun)).status == "success"
    assert (tries, len(install.flow.polled)) == (4, 1)
    assert APP_SECRET not in str(logs)


async def test_grant_whose_commit_was_not_heard_of_is_kept_once(
    install: ScanInstall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installs, "KEEP_RETRY_SECONDS", 0.01)
    begun = await install.begin()
    install.flow.polls = [granted()]
    store, told = PostgresInstallStore.grant, []

    async def unheard(*given: Any, **more: Any) -> bool:
        told.append(await store(*given, **more))
        if len(told) == 1:
            raise StoreUnavailable("the connection broke")
        return told[-1]

    monkeypatch.setattr(PostgresInstallStore, "grant", unheard)
    await install.step()
    assert (await install.status(begun)).status == "success"
    assert told == [True, True]


async def test_grant_that_two_heard_is_stored_by_the_first(install: ScanInstall) -> None:
    begun = await install.begin()
    await install.sql("update lark_install_session set next_poll_at = now()")
    slow = await install.scans.take()
    await install.sql("update lark_install_session set poller_until = now()")
    other = await install.new_scans().take()
    assert slow is not None
    assert other is not None
    install.flow.polls = [granted()] * 2
    install.platform.script(BOT_PATH, Reply(raw=b"", status=503))
    await install.scans.advance(slow)
    assert (await install.status(begun)).status == "pending"
    await install.new_scans().advance(other)
    assert (await install.status(begun)).status == "pending"
    await install.step()
    assert (await install.status(begun)).status == "success"
    assert len(await install.bots.list()) == 1


async def test_run_installs_takes_every_scan_to_its_end(install: ScanInstall) -> None:
    """Two processes, five scans: each ends once, and a scan that moves is asked for at once."""
    agents = [install.place.agent_id] + [
        await add_agent(install.pool, install.place.workspace_id, f"a{n}") for n in range(4)
    ]
    numbers = iter(range(100))

    async def grant(_call: Call) -> Reply:
        number = next(numbers)
        return granted(open_id=f"ou_{number}", app_id=f"cli_{number:016}") if number else of_brand("lark")

    install.flow.polls = [grant] * 6
    services, stop = [install.scans, install.new_scans()], trio.Event()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for scans in services:
                await nursery.start(partial(run_installs, scans, stop=stop))
            begun = [await install.begin(agent_id=agent) for agent in agents]
            while {(await install.status(each)).status for each in begun} != {"success"}:
                await trio.sleep(0.02)
            stop.set()
    assert len(await install.bots.list()) == 5
    assert len(install.flow.polled) == 6


async def test_run_installs_lets_a_step_under_way_end_when_it_stops(install: ScanInstall) -> None:
    stop, asked = trio.Event(), trio.Event()

    async def slowly(_call: Call) -> Reply:
        asked.set()
        await stop.wait()
        return granted()

    install.flow.polls = [slowly]
    begun = await install.begin()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(run_installs, install.scans, stop=stop))
            await asked.wait()
            stop.set()
    assert (await install.status(begun)).status == "success"


# --- what is kept -----------------------------------------------------------------------------------------------------


async def test_secrets_are_neither_stored_in_the_clear_nor_logged(install: ScanInstall) -> None:
    with capture_logs() as logs:
        await install.begin()
        stored = str(await install.row())
        install.platform.script(BOT_PATH, Reply(raw=b"", status=503))
        install.flow.polls = [granted()]
        await install.step()
        stored += str(await install.row())
        await install.step()
    stored += str(await install.row()) + str(await install.sql("select to_jsonb(i) from channel_installation i"))
    for secret in (DEVICE_CODE, APP_SECRET):
        assert secret not in stored + str(logs)
        assert secret.encode().hex() not in stored


async def rotate(pool: Pool, ring: KeyRing) -> Rotation:
    return await rotate_secrets(secret_tables(pool), ring, lambda *_: None)


async def test_scan_goes_on_after_the_key_that_sealed_it_is_taken_off_the_ring(install: ScanInstall) -> None:
    """Before the grant and after it: a rotation moves what waits for a scan as it moves what bots keep."""
    begun = await install.begin()
    second, third = b"\x08" * 32, b"\x09" * 32
    both = KeyRing([second, b"\x07" * 32])
    assert (await rotate(install.pool, both)).count(ResealResult.RESEALED) == 1
    install.flow.polls = [granted()]
    install.platform.script(BOT_PATH, Reply(raw=b"", status=503))
    await install.step(install.scans_with(KeyRing([second])))
    assert (await install.row())["credentials"] is not None
    rotation = await rotate(install.pool, KeyRing([third, second]))
    assert (rotation.count(ResealResult.RESEALED), rotation.count(ResealResult.UNREADABLE)) == (2, 0)
    await install.step(install.scans_with(KeyRing([third])))
    assert (await install.status(begun)).status == "success"
    assert (await rotate(install.pool, KeyRing([third]))).count(ResealResult.UNREADABLE) == 0


async def test_status_is_the_workspaces_own_and_ends_after_half_an_hour(install: ScanInstall) -> None:
    begun = await install.begin()
    assert await install.scans.status(begun.session_id, uuid4()) is None
    assert await install.scans.status(UUID(int=7), install.place.workspace_id) is None
    install.flow.polls = [DENIED]
    await install.step()
    await install.sql("update lark_install_session set ended_at = now() - interval '29 minutes'")
    assert (await install.status(begun)).status == "error"
    assert await purge(install.pool, "install_sessions") == 0
    await install.sql("update lark_install_session set ended_at = now() - interval '31 minutes'")
    assert await install.scans.status(begun.session_id, install.place.workspace_id) is None
    assert await purge(install.pool, "install_sessions") == 1


async def test_revoke_is_announced_once(install: ScanInstall) -> None:
    bot = (await install.bots.add(NewApp(install.place.agent_id, APP_ID, "fake-old"))).installation
    async with heard_events(install.database) as heard:
        await install.scans.revoke(install.place.workspace_id, bot.id)
        await install.scans.revoke(install.place.workspace_id, bot.id)
    assert [(event["event"], event["channel_type"]) for event in heard] == [("lark_installation:revoked", "feishu")]
    with pytest.raises(NotFound):
        await install.scans.revoke(uuid4(), bot.id)


async def test_workspace_with_too_many_codes_gets_no_other(
    install: ScanInstall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installs, "PENDING_MAX", 2)
    await install.begin()
    await install.begin()
    with pytest.raises(TooMany) as raised:
        await install.begin()
    assert raised.value.extra == {"retry_after": 60}
    install.flow.polls = [DENIED]
    await install.step()
    await install.begin()
    # What is over is in nobody's way, even where no process has said so yet.
    await install.sql("update lark_install_session set deadline = now()")
    await install.begin()
