"""What events become, by cases: mentions, envelopes, content of every type, and the conversations they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.channel.message import ChatType, InboundMessage, Source
from gateway.errors import RemoteProtocolError
from gateway.lark.chat.content import decode_event, flatten
from gateway.lark.chat.kinds import message_type
from gateway.lark.chat.mentions import Mention, is_bot, rewrite_mentions

CASES: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "cases" / "inbound.json").read_text())


def cases(group: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("given", "expected"),
        [pytest.param(case["input"], case["expected"], id=case["name"]) for case in CASES[group]],
    )


def _event(chat_type: str, message_type: str, content: object, mentions: list[dict[str, str]]) -> bytes:
    listed = [
        {"key": mention["key"], "name": mention.get("name", ""), "id": {k: mention.get(k, "") for k in _IDS}}
        for mention in mentions
    ]
    message = {
        "message_id": "om_1",
        "chat_id": "oc_1",
        "chat_type": chat_type,
        "message_type": message_type,
        "content": json.dumps(content),
        "mentions": listed,
    }
    header = {"event_id": "ev_1", "event_type": "im.message.receive_v1", "app_id": "cli_a"}
    return json.dumps({"header": header, "event": {"sender": _SENDER, "message": message}}).encode()


_IDS = ("open_id", "union_id")
_SENDER = {"sender_id": {"open_id": "ou_user"}, "sender_type": "user"}


def _decoded(payload: bytes, bot: dict[str, str]) -> InboundMessage:
    message = decode_event(payload, **bot)
    assert message is not None
    return message


@cases("mention_rewrite")
def test_mentions_of_a_group_message_are_rewritten(given: dict[str, Any], expected: str | dict[str, Any]) -> None:
    kind, content = ("post", given["post"]) if "post" in given else ("text", {"text": given["text"]})
    message = _decoded(_event("group", kind, content, given["mentions"]), given["inst"])
    if isinstance(expected, dict):
        assert (message.text, message.addressed_to_bot) == (expected["body"], expected["addressed"])
    else:
        assert message.text == message.command_text == expected


@pytest.mark.parametrize("case", CASES["mention_scenarios"], ids=lambda case: case["text"])
def test_mention_scenario_of_the_wire_comes_out_as_expected(case: dict[str, Any]) -> None:
    mentions = [Mention(entry["key"], entry["name"], union_id=entry["union_id"]) for entry in case["mentions"]]
    bot = {"bot_open_id": "", "bot_union_id": case["bot_union_id"]}
    assert rewrite_mentions(case["text"], mentions, lambda mention: is_bot(mention, **bot)) == case["expected"]


@cases("addressed_to_bot")
def test_mention_decides_whom_a_group_message_addresses(given: dict[str, Any], expected: bool) -> None:
    mentions = [] if given["mention"] is None else [{"key": "@_user_1", "name": "N", **given["mention"]}]
    payload = _event(given["chat_type"], "text", {"text": "@_user_1 hi"}, mentions)
    assert _decoded(payload, given["inst"]).addressed_to_bot is expected


@cases("decode_envelope")
def test_envelope_is_a_message_nothing_or_an_error(given: str, expected: Any) -> None:
    if expected == "error":
        with pytest.raises(RemoteProtocolError):
            decode_event(given.encode())
    elif expected == "none":
        assert decode_event(given.encode()) is None
    else:
        message = _decoded(given.encode(), {})
        stored = {
            "message_id": message.message_id,
            "body": message.text,
            "content": message.raw["message"]["content"],
        }
        assert expected["message"].items() <= stored.items()


@cases("content_flatten")
def test_content_is_flattened(given: list[str], expected: str) -> None:
    assert flatten(*given).text == expected


@cases("channel_msg_type")
def test_type_of_the_platform_becomes_one_of_ours(given: str, expected: str) -> None:
    assert message_type(given).value == expected


@cases("session_key")
def test_conversation_of_a_message_has_its_key_and_remembers_the_chat_of_a_topic(
    given: dict[str, str], expected: dict[str, Any]
) -> None:
    source = Source("feishu", given["chat"], ChatType(given["type"]), "ou_a", thread_id=given.get("thread", ""))
    assert source.session_key == expected["key"]
    # The binding's config holds the real chat where the key is another.
    assert (source.chat_id != source.session_key) is expected["config"]
