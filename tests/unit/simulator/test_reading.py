"""What bots read back: bundles of forwarded messages, lists of chats and topics, names."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio.testing

from gateway.simulator.cards import UPGRADE_SENTENCE
from gateway.simulator.events import message_event
from gateway.simulator.messages import Message, readable
from gateway.simulator.platform import Person, SimChat, open_id
from gateway.simulator.resources import Attachment
from gateway.simulator.simulator import Simulator, Utterance
from support.platform_caller import MESSAGES, Caller


@pytest.fixture
async def grace(simulator: Simulator) -> Person:
    return simulator.create_person("Grace")


@pytest.fixture
async def elsewhere(simulator: Simulator, ada: Person, grace: Person) -> SimChat:
    return simulator.create_group("Elsewhere", [], [ada, grace])


async def read(caller: Caller, message: Message) -> list[dict[str, Any]]:
    _, document = await caller.call("GET", f"{MESSAGES}/{message.message_id}?user_id_type=open_id")
    return list(document["data"]["items"])


async def listed(caller: Caller, kind: str, container: str, **arguments: str) -> dict[str, Any]:
    query = "".join(f"&{name}={value}" for name, value in arguments.items())
    _, document = await caller.call("GET", f"{MESSAGES}?container_id_type={kind}&container_id={container}{query}")
    return document


def ids(document: dict[str, Any]) -> list[str]:
    return [item["message_id"] for item in document["data"]["items"]]


async def test_forwarded_bundle_reads_as_parent_and_children(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person, grace: Person, elsewhere: SimChat
) -> None:
    first = simulator.say(ada, elsewhere, "hi @Grace").message
    second = simulator.say(grace, elsewhere, Utterance("yes", reply_to=first.message_id)).message
    said = simulator.say(ada, chat, Utterance(forwards=[first.message_id, second.message_id]))

    assert (said.message.message_type, said.message.content) == ("merge_forward", "Merged and Forwarded Message")
    assert b'"content":"Merged and Forwarded Message"' in said.event.payload
    parent, *children = await read(caller, said.message)
    assert "upper_message_id" not in parent
    assert [child["upper_message_id"] for child in children] == [parent["message_id"]] * 2
    assert [child["body"]["content"] for child in children] == ['{"text":"hi @_user_1"}', '{"text":"yes"}']
    assert children[0]["mentions"][0]["name"] == "Grace"
    assert children[1]["sender"]["id"] == open_id(caller.app.app_id, grace.union_id)
    assert "parent_id" not in children[1]
    assert {child["message_id"] for child in children}.isdisjoint({first.message_id, second.message_id})


async def test_forwarded_bundle_inside_a_bundle_is_read_with_it(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person, elsewhere: SimChat
) -> None:
    leaf = simulator.say(ada, elsewhere, "leaf").message
    inner = simulator.say(ada, elsewhere, Utterance(forwards=[leaf.message_id])).message
    middle = simulator.say(ada, elsewhere, Utterance(forwards=[inner.message_id])).message
    last = simulator.say(ada, elsewhere, "last").message
    outer = simulator.say(ada, chat, Utterance(forwards=[middle.message_id, last.message_id])).message

    items = await read(caller, outer)
    assert [item["msg_type"] for item in items] == ["merge_forward"] * 3 + ["text"] * 2
    assert [item.get("upper_message_id") for item in items] == [
        None,
        items[0]["message_id"],
        items[1]["message_id"],
        items[2]["message_id"],
        items[0]["message_id"],
    ]
    assert len({item["message_id"] for item in items}) == 5


async def test_forwarded_picture_is_downloaded_from_the_bundle_alone(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person
) -> None:
    picture = simulator.say(ada, chat, Utterance(attachments=[Attachment("image")])).message
    bundle = simulator.say(ada, chat, Utterance(forwards=[picture.message_id])).message
    _, child = await read(caller, bundle)
    key = child["body"]["content"].split('"')[3]

    target = f"{MESSAGES}/{{}}/resources/{key}?type=image"
    assert (await caller.answer("GET", target.format(child["message_id"]))).code == 234043
    assert (await caller.answer("GET", target.format(bundle.message_id))).status == 200


async def test_forwarding_what_a_person_cannot_see_is_refused(
    simulator: Simulator, chat: SimChat, grace: Person, ada: Person, elsewhere: SimChat
) -> None:
    secret = simulator.say(ada, chat, "between us").message
    with pytest.raises(ValueError, match="Grace is not in the chat"):
        simulator.say(grace, elsewhere, Utterance(forwards=[secret.message_id]))


async def test_forwarded_messages_are_forgotten_with_their_bundle(ada: Person) -> None:
    simulator = Simulator(history_max=2)
    chat = simulator.create_group("G", [], [simulator.create_person("Ada")])
    leaf = simulator.say(ada, chat, "leaf").message
    bundle = simulator.say(ada, chat, Utterance(forwards=[leaf.message_id])).message
    [child] = simulator.messages.bundled(bundle.message_id)
    for _ in range(2):
        simulator.say(ada, chat, "more")

    assert not simulator.messages.is_bundled(child.message_id)


async def test_list_pages_stay_whole_while_more_is_said(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person, mock_clock: trio.testing.MockClock
) -> None:
    said = []
    for number in range(4):
        said.append(simulator.say(ada, chat, str(number)).message.message_id)
        mock_clock.jump(1)
    page = await listed(caller, "chat", chat.chat_id, sort_type="ByCreateTimeDesc", page_size="2")
    simulator.say(ada, chat, "late")
    token = page["data"]["page_token"]
    rest = await listed(caller, "chat", chat.chat_id, sort_type="ByCreateTimeDesc", page_size="2", page_token=token)

    assert ids(page) + ids(rest) == said[::-1]
    assert (rest["data"]["has_more"], rest["data"]["page_token"]) == (False, "")


async def test_list_is_by_time_written_and_keeps_recalled_ones_without_content(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person
) -> None:
    new = simulator.say(ada, chat, "new").message
    old = simulator.say(ada, chat, Utterance("old @Echo", age_seconds=60)).message
    simulator.messages.withdraw(old.message_id)

    document = await listed(caller, "chat", chat.chat_id)
    assert ids(document) == [old.message_id, new.message_id]
    gone = document["data"]["items"][0]
    assert (gone["deleted"], gone["body"]["content"]) == (True, "This message was recalled")
    assert "mentions" not in gone


async def test_topic_is_listed_by_its_thread_and_the_chat_lists_its_root(
    simulator: Simulator, caller: Caller, ada: Person
) -> None:
    group = simulator.create_group("Team", [caller.app], [ada])
    root = simulator.say(ada, group, Utterance("topic", in_thread=True))
    reply = simulator.say(ada, group, Utterance("reply", reply_to=root.message.message_id))
    quote = simulator.say(ada, group, "aside").message

    assert (reply.message.root_id, reply.message.parent_id) == (root.message.message_id,) * 2
    assert f'"thread_id":"{root.message.thread_id}"'.encode() in root.event.payload
    assert f'"thread_id":"{root.message.thread_id}"'.encode() in reply.event.payload
    assert ids(await listed(caller, "chat", group.chat_id)) == [root.message.message_id, quote.message_id]
    thread = await listed(caller, "thread", root.message.thread_id)
    assert ids(thread) == [root.message.message_id, reply.message.message_id]


@pytest.mark.parametrize(
    ("kind", "arguments", "code"),
    [
        ("thread", {"start_time": "1"}, 230001),
        ("thread", {"container_id": "omt_nothing"}, 230001),
        ("topic", {}, 230001),
        ("chat", {"page_size": "51"}, 99992402),
        ("chat", {"page_size": "0"}, 99992402),
        ("chat", {"page_token": "bm90aGluZw=="}, 99992402),
        ("chat", {"sort_type": "ByName"}, 99992402),
        ("chat", {"user_id_type": "nick_name"}, 99992402),
        ("chat", {"user_id_type": "user_id"}, 99991672),
    ],
)
async def test_list_wrong_arguments_are_refused(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person, kind: str, arguments: dict[str, str], code: int
) -> None:
    root = simulator.say(ada, chat, Utterance("topic", in_thread=True)).message
    container = arguments.pop("container_id", chat.chat_id if kind == "chat" else root.thread_id)
    assert (await listed(caller, kind, container, **arguments))["code"] == code


async def test_thread_of_a_chat_without_the_bot_is_refused(
    simulator: Simulator, caller: Caller, ada: Person, elsewhere: SimChat
) -> None:
    root = simulator.say(ada, elsewhere, Utterance("topic", in_thread=True)).message
    assert (await listed(caller, "thread", root.thread_id))["code"] == 230002


async def test_list_names_people_by_the_id_asked_for_and_bots_by_app_id(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person
) -> None:
    caller.app.shows_user_ids = True
    simulator.say(ada, chat, "@Echo hi")
    await caller.send(chat, "hello")

    for id_type, wanted in (("union_id", ada.union_id), ("user_id", ada.user_id)):
        person, bot = (await listed(caller, "chat", chat.chat_id, user_id_type=id_type))["data"]["items"]
        assert (person["sender"]["id"], person["sender"]["id_type"]) == (wanted, id_type)
        assert (bot["sender"]["id"], bot["sender"]["id_type"]) == (caller.app.app_id, "app_id")


async def test_list_planned_to_be_throttled_is(simulator: Simulator, caller: Caller, chat: SimChat) -> None:
    headers = (("x-ogw-ratelimit-reset", "2"),)
    simulator.fail_next(MESSAGES, 2, method="GET", status=429, code=99991400, headers=headers)

    assert [(await listed(caller, "chat", chat.chat_id))["code"] for _ in range(3)] == [99991400, 99991400, 0]


async def test_names_are_left_out_without_the_scope(caller: Caller, ada: Person) -> None:
    caller.app.shows_names = False
    seen = open_id(caller.app.app_id, ada.union_id)
    _, document = await caller.call("GET", f"/open-apis/contact/v3/users/batch?user_ids={seen}&user_id_type=open_id")
    assert document["data"]["items"] == [{"open_id": seen, "union_id": ada.union_id}]


CARD = {
    "header": {"title": {"tag": "plain_text", "content": "Alert"}},
    "elements": [
        {"tag": "div", "text": {"content": "CPU"}, "fields": [{"text": {"content": "95%"}}]},
        {"tag": "action", "actions": [{"tag": "button", "text": {"content": "ack"}, "type": "primary"}]},
        {"tag": "img", "img_key": "img_1"},
    ],
}
SIMPLIFIED = {
    "title": "Alert",
    "elements": [
        [{"tag": "text", "text": "CPU"}, {"tag": "text", "text": "95%"}],
        [{"tag": "button", "text": "ack", "type": "primary"}],
        [{"tag": "img", "image_key": "img_1"}],
    ],
}
NEWER = {"schema": "2.0", "body": {"elements": [{"tag": "markdown", "content": "words"}]}}
SUBSTITUTE = {"title": None, "elements": [[{"tag": "text", "text": UPGRADE_SENTENCE}]]}


@pytest.mark.parametrize(("card", "simplified"), [(CARD, SIMPLIFIED), (NEWER, SUBSTITUTE), (SIMPLIFIED, SIMPLIFIED)])
async def test_card_is_degraded_unless_it_is_asked_for_as_sent(
    simulator: Simulator, caller: Caller, chat: SimChat, card: dict[str, Any], simplified: dict[str, Any]
) -> None:
    _, sent = await caller.send(chat, "", msg_type="interactive", content=json.dumps(card))
    message_id = sent["data"]["message_id"]

    async def read(form: str) -> Any:
        _, document = await caller.call("GET", f"{MESSAGES}/{message_id}{form}")
        return json.loads(document["data"]["items"][0]["body"]["content"])

    assert await read("") == simplified
    assert await read("?card_msg_content_type=user_card_content") == card
    assert json.loads((await read("?card_msg_content_type=raw_card_content"))["json_card"]) == card
    listing = await listed(caller, "chat", chat.chat_id)
    assert json.loads(listing["data"]["items"][-1]["body"]["content"]) == simplified
    event = message_event(simulator.platform, caller.app, simulator.messages.get(message_id))
    assert json.loads(event["message"]["content"]) == simplified


async def test_card_in_an_unknown_form_is_refused(caller: Caller, chat: SimChat) -> None:
    assert (await listed(caller, "chat", chat.chat_id, card_msg_content_type="best"))["code"] == 99992402


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ({"text": "hi"}, "hi"),
        ({"body": {"elements": [{"tag": "markdown", "content": "**hi**"}]}}, "**hi**"),
        (
            {
                "body": {
                    "elements": [
                        {"tag": "markdown", "content": "Link it."},
                        {
                            "tag": "button",
                            "text": {"tag": "plain_text", "content": "Link"},
                            "behaviors": [{"type": "open_url", "default_url": "https://g.test/b"}],
                        },
                    ]
                }
            },
            "Link it.\nLink\nhttps://g.test/b",
        ),
        ({"body": 7}, "[interactive]"),
        ({}, "[interactive]"),
    ],
)
def test_page_shows_the_words_of_cards_and_the_addresses_of_their_buttons(content: dict[str, Any], shown: str) -> None:
    message = Message("om_1", "oc_1", "app", "cli_a", "interactive", json.dumps(content), 0, 0)
    assert readable(message) == shown
