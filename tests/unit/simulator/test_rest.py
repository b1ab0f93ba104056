"""The calls of the simulated platform, answered in memory."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
import trio.testing

from gateway.simulator.exchange import ConnectionLost
from gateway.simulator.platform import Person, SimChat, open_id
from gateway.simulator.simulator import Simulator
from support.platform_caller import MESSAGES, Caller


async def bootstrap(caller: Caller, **changes: str) -> dict[str, Any]:
    body = {"AppID": caller.app.app_id, "AppSecret": caller.app.secret, **changes}
    status, document = await caller.call("POST", "/callback/ws/endpoint", body)
    assert status == 200
    return document


async def test_bootstrap_right_secret_gives_url_with_ids_and_config(caller: Caller) -> None:
    document = await bootstrap(caller)

    assert document["code"] == 0
    query = parse_qs(urlsplit(document["data"]["URL"]).query)
    assert query["service_id"] == [str(caller.app.service_id)]
    assert query["device_id"]
    assert query["ticket"]
    assert document["data"]["ClientConfig"]["PingInterval"] == 120


async def test_bootstrap_refusals_have_their_own_codes(caller: Caller) -> None:
    assert (await bootstrap(caller, AppSecret="not-the-secret"))["code"] == 514
    assert (await bootstrap(caller, AppID="cli_0000000000000000"))["code"] == 514
    caller.app.connections_max = 0
    assert (await bootstrap(caller))["code"] == 1000040350
    caller.app.forbidden = True
    assert (await bootstrap(caller))["code"] == 403


async def test_bootstrap_planned_busy_answers_so_once(caller: Caller) -> None:
    caller.simulator.fail_next("/callback/ws/endpoint", code=1, msg="system busy")

    assert (await bootstrap(caller))["code"] == 1
    assert (await bootstrap(caller))["code"] == 0


async def test_rotated_secret_old_one_works_until_overlap_ends(
    simulator: Simulator, caller: Caller, mock_clock: trio.testing.MockClock
) -> None:
    old = caller.app.secret
    new = simulator.rotate_secret(caller.app, overlap_seconds=30)

    assert (await bootstrap(caller, AppSecret=old))["code"] == 0
    mock_clock.jump(31)
    assert (await bootstrap(caller, AppSecret=old))["code"] == 514
    assert (await bootstrap(caller, AppSecret=new))["code"] == 0


async def test_token_is_the_same_until_half_an_hour_is_left(caller: Caller, mock_clock: trio.testing.MockClock) -> None:
    first = caller.token
    mock_clock.jump(7200 - 1800)
    assert await caller.log_in() == first
    mock_clock.jump(1)
    assert await caller.log_in() != first

    status, _ = await caller.call("GET", "/open-apis/bot/v3/info", authorization=f"Bearer {first}")
    assert status == 200
    mock_clock.jump(1800)
    status, document = await caller.call("GET", "/open-apis/bot/v3/info", authorization=f"Bearer {first}")
    assert (status, document["code"]) == (400, 99991663)


@pytest.mark.parametrize(
    ("authorization", "code"),
    [("", 99991661), ("Bearer nonsense", 99991671), ("t-abc", 99991671), ("Bearer t-unknown", 99991663)],
)
async def test_token_wrong_is_refused_with_a_log_id(caller: Caller, authorization: str, code: int) -> None:
    status, document = await caller.call("GET", "/open-apis/bot/v3/info", authorization=authorization)

    assert (status, document["code"]) == (400, code)
    assert document["error"]["log_id"]


@pytest.mark.parametrize(("changes", "code"), [({"app_id": "cli_0"}, 10003), ({"app_secret": "wrong"}, 10014)])
async def test_token_call_bad_credentials_are_refused(caller: Caller, changes: dict[str, str], code: int) -> None:
    body = {"app_id": caller.app.app_id, "app_secret": caller.app.secret, **changes}
    _, document = await caller.call("POST", "/open-apis/auth/v3/tenant_access_token/internal", body)
    assert document["code"] == code


async def test_token_revoked_is_invalid_at_once(simulator: Simulator, caller: Caller) -> None:
    assert simulator.revoke_tokens(caller.app) == 1
    _, document = await caller.call("GET", "/open-apis/bot/v3/info")
    assert document["code"] == 99991663


async def test_send_text_appears_in_the_chat(simulator: Simulator, caller: Caller, chat: SimChat) -> None:
    status, document = await caller.send(chat, "hi", uuid="u-1")

    assert (status, document["code"]) == (200, 0)
    assert document["data"]["sender"] == {
        "id": caller.app.app_id,
        "id_type": "app_id",
        "sender_type": "app",
        "tenant_key": "15f2a7c0d4e8b9a1",
    }
    [message] = simulator.sent(chat)
    assert (message.text, message.uuid, message.message_id) == ("hi", "u-1", document["data"]["message_id"])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"content": {"text": "not encoded twice"}}, 230001),
        ({"content": "not JSON"}, 230001),
        ({"content": "[]"}, 230001),
        ({"content": "{}"}, 230001),
        ({"msg_type": "hologram"}, 230001),
        ({"receive_id": "oc_nowhere"}, 230001),
        ({"uuid": "u" * 51}, 99992402),
        ({"content": json.dumps({"text": "x" * 150 * 1024})}, 230025),
    ],
)
async def test_send_bad_message_is_refused(
    simulator: Simulator, caller: Caller, chat: SimChat, change: dict[str, Any], code: int
) -> None:
    status, document = await caller.send(chat, "hi", **change)

    assert (status, document["code"]) == (400, code)
    assert simulator.sent(chat) == []


async def test_send_same_uuid_within_an_hour_is_one_message(
    simulator: Simulator, caller: Caller, chat: SimChat, mock_clock: trio.testing.MockClock
) -> None:
    _, first = await caller.send(chat, "hi", uuid="u-1")
    mock_clock.jump(3599)
    await caller.log_in()
    _, second = await caller.send(chat, "hi", uuid="u-1")
    assert second["data"]["message_id"] == first["data"]["message_id"]
    assert [message.calls for message in simulator.sent(chat)] == [2]

    mock_clock.jump(2)
    await caller.send(chat, "hi", uuid="u-1")
    assert len(simulator.sent(chat)) == 2


async def test_send_answer_lost_the_repeat_finds_the_first_message(
    simulator: Simulator, caller: Caller, chat: SimChat
) -> None:
    simulator.fail_next(MESSAGES, lose_answer=True)

    with pytest.raises(ConnectionLost):
        await caller.send(chat, "hi", uuid="u-1")
    status, _ = await caller.send(chat, "hi", uuid="u-1")

    assert status == 200
    assert [message.calls for message in simulator.sent(chat)] == [2]


async def test_send_bot_not_in_chat_is_refused(simulator: Simulator, caller: Caller, ada: Person) -> None:
    group = simulator.create_group("Others", [], [ada])
    _, document = await caller.send(group, "hi")
    assert document["code"] == 230002


async def test_send_to_open_id_reaches_the_direct_chat(
    simulator: Simulator, caller: Caller, ada: Person, chat: SimChat
) -> None:
    content = json.dumps({"text": "hi"})
    target = f"{MESSAGES}?receive_id_type=open_id"
    body = {"receive_id": open_id(caller.app.app_id, ada.union_id), "msg_type": "text", "content": content}
    _, document = await caller.call("POST", target, body)
    assert document["data"]["chat_id"] == chat.chat_id

    other = simulator.create_app("Other")
    _, document = await caller.call("POST", target, {**body, "receive_id": open_id(other.app_id, ada.union_id)})
    assert document["code"] == 99992351


async def test_send_over_five_a_second_to_a_chat_is_throttled(
    caller: Caller, chat: SimChat, mock_clock: trio.testing.MockClock
) -> None:
    for _ in range(5):
        assert (await caller.send(chat, "hi"))[0] == 200

    body = {"receive_id": chat.chat_id, "msg_type": "text", "content": json.dumps({"text": "hi"})}
    answer = await caller.answer("POST", f"{MESSAGES}?receive_id_type=chat_id", body)
    assert answer.status == 429
    assert answer.code == 99991400
    assert dict(answer.headers)["x-ogw-ratelimit-reset"] == "1"
    mock_clock.jump(1)
    assert (await caller.send(chat, "hi"))[0] == 200


async def test_rate_limit_counts_fifty_a_second_and_a_thousand_a_minute(
    caller: Caller, mock_clock: trio.testing.MockClock
) -> None:
    statuses = []
    for second in range(21):
        for _ in range(51 if second == 0 else 50):
            statuses.append((await caller.call("GET", "/open-apis/bot/v3/info"))[0])
        mock_clock.jump(1)

    assert statuses[:51] == [200] * 50 + [429]
    assert statuses.count(200) == 1000
    caller.simulator.limits.enabled = False
    assert (await caller.call("GET", "/open-apis/bot/v3/info"))[0] == 200


async def test_reply_in_thread_starts_a_thread_that_later_replies_stay_in(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person
) -> None:
    question = simulator.say(ada, chat, "why?").message
    content = json.dumps({"text": "because"})
    target = f"{MESSAGES}/{question.message_id}/reply"
    _, first = await caller.call("POST", target, {"msg_type": "text", "content": content, "reply_in_thread": True})
    _, second = await caller.call("POST", target, {"msg_type": "text", "content": content})

    assert first["data"]["thread_id"].startswith("omt_")
    assert second["data"]["thread_id"] == first["data"]["thread_id"]
    assert second["data"]["parent_id"] == second["data"]["root_id"] == question.message_id
    _, listed = await caller.call(
        "GET", f"{MESSAGES}?container_id_type=thread&container_id={first['data']['thread_id']}"
    )
    assert len(listed["data"]["items"]) == 3


async def test_list_newest_first_in_pages_and_by_seconds(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person, mock_clock: trio.testing.MockClock
) -> None:
    said = []
    for number in range(5):
        said.append(simulator.say(ada, chat, f"line {number}").message)
        mock_clock.jump(10)

    target = f"{MESSAGES}?container_id_type=chat&container_id={chat.chat_id}&sort_type=ByCreateTimeDesc&page_size=3"
    _, page = await caller.call("GET", target)
    assert [item["message_id"] for item in page["data"]["items"]] == [one.message_id for one in said[:1:-1]]
    _, rest = await caller.call("GET", f"{target}&page_token={page['data']['page_token']}")
    assert (len(rest["data"]["items"]), rest["data"]["has_more"]) == (2, False)
    _, recent = await caller.call("GET", f"{target}&start_time={said[3].create_time // 1000}")
    assert len(recent["data"]["items"]) == 2


async def test_read_message_of_a_person_shows_the_open_id_this_app_knows(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person
) -> None:
    message = simulator.say(ada, chat, "hello @Echo").message
    _, document = await caller.call("GET", f"{MESSAGES}/{message.message_id}")

    [item] = document["data"]["items"]
    assert item["sender"]["id"] == open_id(caller.app.app_id, ada.union_id)
    assert item["mentions"][0]["id"] == caller.app.open_id
    _, missing = await caller.call("GET", f"{MESSAGES}/om_nothing")
    assert missing["code"] == 231003


async def test_recall_hides_the_message_and_only_its_sender_may(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person
) -> None:
    _, document = await caller.send(chat, "oops")
    theirs = simulator.say(ada, chat, "mine").message
    _, refused = await caller.call("DELETE", f"{MESSAGES}/{theirs.message_id}")
    assert refused["code"] == 230012

    await caller.call("DELETE", f"{MESSAGES}/{document['data']['message_id']}")
    assert simulator.sent(chat) == []
    _, gone = await caller.call("GET", f"{MESSAGES}/{document['data']['message_id']}")
    assert gone["code"] == 230011


async def test_edit_and_patch_change_what_they_may(simulator: Simulator, caller: Caller, chat: SimChat) -> None:
    _, text = await caller.send(chat, "first")
    _, card = await caller.send(chat, "", msg_type="interactive", content=json.dumps({"schema": "2.0"}))
    edited = {"msg_type": "text", "content": json.dumps({"text": "second"})}

    assert (await caller.call("PUT", f"{MESSAGES}/{text['data']['message_id']}", edited))[0] == 200
    assert (await caller.call("PATCH", f"{MESSAGES}/{card['data']['message_id']}", {"content": "{}"}))[0] == 200
    _, refused = await caller.call("PATCH", f"{MESSAGES}/{text['data']['message_id']}", {"content": "{}"})
    assert refused["code"] == 230001
    assert [one.text for one in simulator.sent(chat)] == ["second", ""]


async def test_reaction_added_and_taken_back(simulator: Simulator, caller: Caller, chat: SimChat, ada: Person) -> None:
    message = simulator.say(ada, chat, "hm").message
    target = f"{MESSAGES}/{message.message_id}/reactions"
    _, added = await caller.call("POST", target, {"reaction_type": {"emoji_type": "Typing"}})
    assert [emoji for _, emoji in message.reactions.values()] == ["Typing"]

    status, _ = await caller.call("DELETE", f"{target}/{added['data']['reaction_id']}")
    assert (status, message.reactions) == (200, {})


async def test_bot_info_has_the_bot_at_the_top_and_no_union_id(caller: Caller) -> None:
    _, document = await caller.call("GET", "/open-apis/bot/v3/info")

    assert document["bot"]["open_id"] == caller.app.open_id
    assert "data" not in document
    assert "union_id" not in document["bot"]


async def test_contact_calls_find_people_and_the_bot_by_open_id(caller: Caller, ada: Person) -> None:
    seen = open_id(caller.app.app_id, ada.union_id)
    _, one = await caller.call("GET", f"/open-apis/contact/v3/users/{seen}?user_id_type=open_id")
    assert one["data"]["user"] == {"name": "Ada", "union_id": ada.union_id, "open_id": seen}

    target = f"/open-apis/contact/v3/users/batch?user_ids={seen}&user_ids={caller.app.open_id}&user_ids=ou_nobody"
    _, several = await caller.call("GET", target)
    assert [item["union_id"] for item in several["data"]["items"]] == [ada.union_id, caller.app.union_id]


async def test_planned_failure_counts_down_and_does_nothing(
    simulator: Simulator, caller: Caller, chat: SimChat
) -> None:
    simulator.fail_next(MESSAGES, times=2, status=502, body="<html>bad gateway</html>")

    body = {"receive_id": chat.chat_id, "msg_type": "text", "content": json.dumps({"text": "hi"})}
    for _ in range(2):
        answer = await caller.answer("POST", f"{MESSAGES}?receive_id_type=chat_id", body)
        assert (answer.status, answer.body) == (502, b"<html>bad gateway</html>")
    assert simulator.sent(chat) == []
    assert (await caller.send(chat, "hi"))[0] == 200


async def test_call_hang_answers_after_its_time(
    simulator: Simulator, caller: Caller, chat: SimChat, autojump_clock: trio.testing.MockClock
) -> None:
    simulator.fail_next(MESSAGES, hang_seconds=5)
    with trio.fail_after(60):
        started = trio.current_time()
        assert (await caller.send(chat, "hi"))[0] == 200
        assert trio.current_time() - started == 5


async def test_call_log_names_app_and_code_but_no_secret(simulator: Simulator, caller: Caller, chat: SimChat) -> None:
    await caller.send(chat, "hi", content="not JSON")

    assert [(call.path, call.app_id, call.status, call.code) for call in simulator.calls][-1] == (
        MESSAGES,
        caller.app.app_id,
        400,
        230001,
    )
    assert simulator.call_counts[f"POST {MESSAGES} 400"] == 1
    assert caller.token not in repr(simulator.calls)
    assert caller.app.secret not in repr(simulator.calls) + repr(simulator.platform.apps)


async def test_unknown_path_is_a_plain_404(caller: Caller) -> None:
    answer = await caller.answer("GET", "/open-apis/im/v9/everything")
    assert (answer.status, answer.body) == (404, b"404 page not found")
