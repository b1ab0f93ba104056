"""What bots are told, and who is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.simulator.delivery import EventRecord
from gateway.simulator.messages import place_mentions
from gateway.simulator.platform import open_id
from gateway.simulator.simulator import Simulator, Utterance


@pytest.fixture
async def simulator() -> Simulator:
    return Simulator(seed=1)


def document(record: EventRecord) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(record.payload)
    return decoded


async def test_direct_message_event_has_the_platform_form(simulator: Simulator) -> None:
    app, ada = simulator.create_app("Echo"), simulator.create_person("Ada")

    said = simulator.say(ada, app, "hello")

    event = document(said.event)
    assert event["schema"] == "2.0"
    assert event["header"] | {"create_time": ""} == {
        "event_id": said.event.event_id,
        "token": "",
        "create_time": "",
        "event_type": "im.message.receive_v1",
        "tenant_key": "15f2a7c0d4e8b9a1",
        "app_id": app.app_id,
    }
    assert event["event"]["sender"]["sender_id"] == {
        "union_id": ada.union_id,
        "user_id": None,
        "open_id": open_id(app.app_id, ada.union_id),
    }
    message = event["event"]["message"]
    assert message["chat_type"] == "p2p"
    assert json.loads(message["content"]) == {"text": "hello"}
    assert message["create_time"].isdigit()
    assert "thread_id" not in message


async def test_group_message_each_bot_gets_its_own_event_of_the_same_message(simulator: Simulator) -> None:
    one, two, ada = simulator.create_app("One"), simulator.create_app("Two"), simulator.create_person("Ada")
    group = simulator.create_group("Team", [one, two], [ada])

    said = simulator.say(ada, group, "@Two please")

    first, second = map(document, said.events)
    assert first["header"]["event_id"] != second["header"]["event_id"]
    assert first["event"]["message"]["message_id"] == second["event"]["message"]["message_id"]
    [seen_by_one] = first["event"]["message"]["mentions"]
    [seen_by_two] = second["event"]["message"]["mentions"]
    assert seen_by_one["id"]["union_id"] == seen_by_two["id"]["union_id"] == two.union_id
    assert seen_by_two["id"]["open_id"] == two.open_id != seen_by_one["id"]["open_id"]


async def test_group_message_without_the_scope_reaches_only_the_mentioned_bot(simulator: Simulator) -> None:
    one = simulator.create_app("One", hears_all_group_messages=False)
    two = simulator.create_app("Two", hears_all_group_messages=False)
    ada = simulator.create_person("Ada")
    group = simulator.create_group("Team", [one, two], [ada])

    assert simulator.say(ada, group, "hello all").events == ()
    assert [event.app_id for event in simulator.say(ada, group, "@Two hello").events] == [two.app_id]


async def test_message_dated_back_says_so(simulator: Simulator) -> None:
    app, ada = simulator.create_app("Echo"), simulator.create_person("Ada")

    event = document(simulator.say(ada, app, Utterance("old", age_seconds=3600)).event)

    age = int(event["header"]["create_time"]) - int(event["event"]["message"]["create_time"])
    assert 3_599_000 <= age <= 3_601_000


async def test_reply_names_parent_and_root(simulator: Simulator) -> None:
    app, ada = simulator.create_app("Echo"), simulator.create_person("Ada")
    first = simulator.say(ada, app, "one").message
    second = simulator.say(ada, app, Utterance("two", reply_to=first.message_id)).message

    third = document(simulator.say(ada, app, Utterance("three", reply_to=second.message_id)).event)["event"]["message"]

    assert (third["parent_id"], third["root_id"]) == (second.message_id, first.message_id)


async def test_same_name_gives_the_same_person(simulator: Simulator) -> None:
    assert simulator.create_person("Ada") == simulator.create_person("Ada")


async def test_unknown_app_option_is_refused_with_the_known_ones(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="hears_bots"):
        simulator.create_app("Echo", hears_everything=True)


def test_mentions_longest_name_wins_and_a_person_has_one_number() -> None:
    candidates = [("Ann", "on_1", False), ("Anna", "on_2", False), ("Bot", "on_3", True)]

    text, mentions = place_mentions("@Anna and @Ann and @Anna, ask @Bot or @nobody", candidates)

    assert text == "@_user_1 and @_user_2 and @_user_1, ask @_user_3 or @nobody"
    assert [(one.union_id, one.is_bot) for one in mentions] == [("on_2", False), ("on_1", False), ("on_3", True)]
