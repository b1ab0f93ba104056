"""Reading back from the platform: what is asked, how often, and what becomes of the answers."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest
import trio

from gateway.channel.errors import PlatformRefused, PlatformThrottled, PlatformUnavailable
from gateway.channel.installation import StoredInstallation
from gateway.core.enrichment import Spot
from gateway.keyring import UnreadableSecret
from gateway.lark.api.client import HttpClient, open_http_client
from gateway.lark.api.clients import InstallationClients, LarkClients, NoClient
from gateway.lark.chat.lookup import LarkLookup
from support.lark_rest import SEND_PATH, TOKEN_PATH, FakePlatform, Reply, serving_platform

LIST_PATH = SEND_PATH
READ_PATH = f"{SEND_PATH}/om_1"
NAMES_PATH = "/open-apis/contact/v3/users/batch"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SECRET = "fake-app-secret"


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with open_http_client() as http:
        yield http


@pytest.fixture
async def platform() -> AsyncIterator[FakePlatform]:
    with trio.fail_after(30):
        async with serving_platform() as platform:
            yield platform


@pytest.fixture
def clients(platform: FakePlatform, http: HttpClient) -> LarkClients:
    return LarkClients(http, open_base_override=platform.base_url)


@pytest.fixture
def lookup(clients: LarkClients) -> LarkLookup:
    return LarkLookup(clients.of("cli_a", SECRET, "feishu"))


def item(id: str, at: float = 0, **changes: Any) -> dict[str, Any]:
    return {
        "message_id": id,
        "msg_type": "text",
        "create_time": str(round((NOON.timestamp() + at) * 1000)),
        "chat_id": "oc_1",
        "sender": {"id": "ou_ann", "id_type": "open_id", "sender_type": "user"},
        "body": {"content": json.dumps({"text": id})},
        **changes,
    }


def items(*listed: dict[str, Any], more: str = "") -> Reply:
    return Reply({"code": 0, "data": {"items": list(listed), "has_more": bool(more), "page_token": more}})


def refusal(code: int, status: int = 400) -> Reply:
    return Reply({"code": code, "msg": "no"}, status=status)


def query(platform: FakePlatform, path: str, index: int = -1) -> dict[str, list[str]]:
    return parse_qs(platform.asked(path)[index].query)


async def test_message_comes_first_whatever_the_order(platform: FakePlatform, lookup: LarkLookup) -> None:
    platform.script(READ_PATH, items(item("om_2", upper_message_id="om_1"), item("om_1", msg_type="merge_forward")))
    assert [said.message_id for said in await lookup.message("om_1")] == ["om_1", "om_2"]
    asked = {"user_id_type": ["open_id"], "card_msg_content_type": ["user_card_content"]}
    assert query(platform, READ_PATH) == asked
    platform.script(READ_PATH, items(item("om_2")))
    assert await lookup.message("om_1") == ()


async def test_chat_is_listed_in_seconds_and_a_topic_without_times(platform: FakePlatform, lookup: LarkLookup) -> None:
    before, since = NOON + timedelta(milliseconds=300), NOON - timedelta(milliseconds=300)
    platform.script(LIST_PATH, items(item("om_b"), item("om_a", -0.1)), items())
    recent = await lookup.recent(Spot("oc_1", "", "om_own", before, "om_s", since))
    assert [said.text for said in recent.messages] == ["om_a", "om_b"]
    assert recent.complete
    noon = int(NOON.timestamp())
    assert query(platform, LIST_PATH) == {
        "container_id_type": ["chat"],
        "container_id": ["oc_1"],
        "sort_type": ["ByCreateTimeDesc"],
        "page_size": ["50"],
        "user_id_type": ["open_id"],
        "card_msg_content_type": ["user_card_content"],
        "start_time": [str(noon - 1)],
        "end_time": [str(noon + 1)],
    }
    await lookup.recent(Spot("oc_1", "omt_1", "om_own", before, "om_s", since))
    asked = query(platform, LIST_PATH)
    assert (asked["container_id_type"], asked["container_id"]) == (["thread"], ["omt_1"])
    assert not {"start_time", "end_time"} & asked.keys()


async def test_two_pages_are_read_and_what_they_do_not_reach_is_admitted(
    platform: FakePlatform, lookup: LarkLookup
) -> None:
    later = [item(f"om_l{n}", 10) for n in range(50)]
    spot = Spot("oc_1", "", "om_own", NOON)
    platform.script(LIST_PATH, items(*later, more="p2"), items(item("om_a", -1), more="p3"))
    recent = await lookup.recent(spot)
    assert ([said.text for said in recent.messages], recent.complete) == (["om_a"], False)
    assert query(platform, LIST_PATH)["page_token"] == ["p2"]
    platform.script(LIST_PATH, items(*(item(f"om_{n}", -1 - n) for n in range(50)), more="p2"))
    recent = await lookup.recent(spot)
    assert ([said.text for said in recent.messages][::9], recent.complete) == (["om_9", "om_0"], True)
    assert len(platform.asked(LIST_PATH)) == 3


async def test_second_page_that_fails_leaves_the_first_incomplete(platform: FakePlatform, lookup: LarkLookup) -> None:
    platform.script(LIST_PATH, items(item("om_a", -1), more="p2"), refusal(230027))
    recent = await lookup.recent(Spot("oc_1", "", "om_own", NOON))
    assert ([said.text for said in recent.messages], recent.complete) == (["om_a"], False)


async def test_names_are_one_call_of_at_most_fifty(platform: FakePlatform, lookup: LarkLookup) -> None:
    people = [{"open_id": "ou_01", "name": "Ann"}, {"open_id": "ou_02"}, "x", {"open_id": 5, "name": "Bo"}]
    platform.script(NAMES_PATH, Reply({"code": 0, "data": {"items": people}}))
    assert await lookup.names([f"ou_{n:02}" for n in reversed(range(60))]) == {"ou_01": "Ann"}
    asked = query(platform, NAMES_PATH)
    assert (asked["user_id_type"], asked["user_ids"]) == (["open_id"], [f"ou_{n:02}" for n in range(50)])
    assert await lookup.names([]) == {}
    assert len(platform.asked(NAMES_PATH)) == 1


@pytest.mark.parametrize("passing", [Reply(close=True), Reply(raw=b"<html>", status=502)], ids=["torn", "bad gateway"])
async def test_failure_that_may_pass_is_tried_once_more(
    platform: FakePlatform, lookup: LarkLookup, passing: Reply
) -> None:
    platform.script(READ_PATH, passing, items(item("om_1")))
    assert len(await lookup.message("om_1")) == 1
    platform.script(READ_PATH, passing, passing, items(item("om_1")))
    with pytest.raises(PlatformUnavailable):
        await lookup.message("om_1")
    assert len(platform.asked(READ_PATH)) == 4


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(230011), PlatformRefused),
        (refusal(230027), PlatformRefused),
        (refusal(231003), PlatformRefused),
        (refusal(99991672), PlatformRefused),
        (refusal(99991400, 429), PlatformThrottled),
        (refusal(230020), PlatformThrottled),
    ],
)
async def test_refusal_and_throttle_are_not_tried_again(
    platform: FakePlatform, lookup: LarkLookup, answer: Reply, error: type[Exception]
) -> None:
    platform.script(READ_PATH, answer, items(item("om_1")))
    with pytest.raises(error):
        await lookup.message("om_1")
    assert len(platform.asked(READ_PATH)) == 1


@pytest.mark.parametrize("data", [None, [], {"items": None}, {"items": [None, 7, {}]}, {"has_more": True}])
async def test_answer_of_any_shape_is_read(platform: FakePlatform, lookup: LarkLookup, data: Any) -> None:
    platform.script(LIST_PATH, Reply({"code": 0, "data": data}))
    assert (await lookup.recent(Spot("oc_1", "", "om_own", NOON))).messages == ()


# Clients that are shared.


async def test_one_app_has_one_client_and_one_token(platform: FakePlatform, clients: LarkClients) -> None:
    first = clients.of("cli_a", SECRET, "feishu")
    assert clients.of("cli_a", SECRET, "feishu") is first
    for _ in range(2):
        await clients.of("cli_a", SECRET, "feishu").bot_info()
    assert len(platform.asked(TOKEN_PATH)) == 1
    assert clients.of("cli_b", SECRET, "feishu") is not first


async def test_rotated_secret_gets_a_new_client_and_the_former_secret_is_forgotten(clients: LarkClients) -> None:
    former = weakref.ref(clients.of("cli_a", SECRET, "feishu"))
    rotated = clients.of("cli_a", "rotated-secret", "feishu")
    assert clients.of("cli_a", "rotated-secret", "feishu") is rotated
    gc.collect()
    assert former() is None


async def test_clients_are_bounded_and_the_least_used_goes_first(http: HttpClient) -> None:
    clients = LarkClients(http, clients_max=2)
    first, second = clients.of("cli_a", SECRET, "feishu"), clients.of("cli_a", SECRET, "lark")
    assert clients.of("cli_a", SECRET, None) is first
    clients.of("cli_c", SECRET, "feishu")
    assert clients.of("cli_a", SECRET, "feishu") is first
    assert clients.of("cli_a", SECRET, "lark") is not second


ID = UUID(int=5)
CONFIG = {"app_id": "cli_a", "app_secret": SECRET, "region": "feishu"}


class Source:
    def __init__(self, installation: StoredInstallation | None) -> None:
        self.installation = installation

    async def stored(self, installation_id: UUID) -> StoredInstallation | None:
        assert installation_id == ID
        return self.installation


async def test_installation_speaks_with_the_client_of_its_app(clients: LarkClients) -> None:
    source = Source(StoredInstallation(ID, CONFIG, revoked=False))
    found = await InstallationClients(source, lambda stored: stored.config, clients).client_of(ID)
    assert found is clients.of("cli_a", SECRET, "feishu")


@pytest.mark.parametrize(
    ("installation", "says"),
    [
        (None, "unknown"),
        (StoredInstallation(ID, CONFIG, revoked=True), "revoked"),
        (StoredInstallation(ID, {"app_id": "cli_a"}, revoked=False), "no app secret"),
    ],
)
async def test_nobody_speaks_for_what_is_not_in_service(
    clients: LarkClients, installation: StoredInstallation | None, says: str
) -> None:
    with pytest.raises(NoClient, match=says):
        await InstallationClients(Source(installation), lambda stored: stored.config, clients).client_of(ID)


async def test_unreadable_secret_is_told(clients: LarkClients) -> None:
    def unreadable(_stored: StoredInstallation) -> dict[str, Any]:
        raise UnreadableSecret("secret_key is unset")

    source = Source(StoredInstallation(ID, CONFIG, revoked=False))
    with pytest.raises(UnreadableSecret):
        await InstallationClients(source, unreadable, clients).client_of(ID)
