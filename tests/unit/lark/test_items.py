"""Messages as REST shows them become what the core knows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.core.enrichment import Author, AuthorKind, Said, SharedFile
from gateway.lark.chat.card_words import LINES_MAX, card_words
from gateway.lark.chat.items import read_items
from gateway.lark.chat.untrusted import content_fields

APP = "cli_own"


def card_text(content: str) -> str:
    return card_words(content_fields(content))


def item(kind: str = "text", content: Any = None, **changes: Any) -> dict[str, Any]:
    body = content if isinstance(content, str) else json.dumps({"text": "hi"} if content is None else content)
    return {
        "message_id": "om_1",
        "msg_type": kind,
        "create_time": "1767355200123",
        "chat_id": "oc_1",
        "thread_id": "omt_1",
        "sender": {"id": "ou_ann", "id_type": "open_id", "sender_type": "user"},
        "body": {"content": body},
        **changes,
    }


def read(kind: str = "text", content: Any = None, **changes: Any) -> Said:
    (said,) = read_items([item(kind, content, **changes)], app_id=APP)
    return said


def test_message_is_read_with_who_where_and_when() -> None:
    moment = datetime(2026, 1, 2, 12, 0, 0, 123000, tzinfo=UTC)
    assert read() == Said("om_1", Author("ou_ann"), "text", "hi", moment, "oc_1", "omt_1")


@pytest.mark.parametrize(
    ("sender", "author"),
    [
        ({"id": APP, "id_type": "app_id", "sender_type": "app"}, Author(APP, AuthorKind.ASSISTANT)),
        ({"id": "cli_other", "id_type": "app_id", "sender_type": "app"}, Author("cli_other", AuthorKind.BOT)),
        ({"sender_type": "anonymous"}, Author()),
        ("nobody", Author()),
    ],
)
def test_sender_is_the_assistant_another_bot_or_a_person(sender: Any, author: Author) -> None:
    assert read(sender=sender).author == author


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        ("post", {"title": "T", "content": [[{"tag": "text", "text": "a"}, {"tag": "a", "text": "b", "href": "u"}]]},
         "T\na b (u)"),
        ("image", {"image_key": "img_1"}, "[Image]"),
        ("file", {"file_key": "f", "file_name": "合同.pdf"}, "[File: 合同.pdf]"),
        ("file", {"file_key": "f", "file_name": "../a]\n[b.pdf"}, "[File: a) (b.pdf]"),
        ("file", {"file_key": "f"}, "[File]"),
        ("media", {"file_key": "f", "file_name": "x.mp4"}, "[Video: x.mp4]"),
        ("location", {"name": "here"}, "[Location] here"),
        ("merge_forward", "Merged and Forwarded Message", "[forwarded messages]"),
        ("interactive", {"type": "template"}, "[interactive card]"),
        ("text", "not JSON", ""),
        ("text", '{"text":"half \\ud83d an emoji"}', "half  an emoji"),
    ],
)  # fmt: skip
def test_content_is_flattened(kind: str, content: Any, text: str) -> None:
    assert read(kind, content).text == text


def test_flat_mentions_put_names_in_place_of_keys() -> None:
    mentions = [
        {"key": "@_user_1", "id": "ou_bot", "id_type": "open_id", "name": "Echo"},
        {"key": "@_user_10", "id": "ou_bo", "id_type": "open_id", "name": "Bo"},
        {"key": "@_user_2", "id": "ou_x"},
        "nothing",
    ]
    text = "@_user_1 and @_user_10 and @_user_2"
    assert read(content={"text": text}, mentions=mentions).text == "@Echo and @Bo and @_user_2"
    post = {"content": [[{"tag": "at", "user_id": "@_user_10", "user_name": "stale"}, {"tag": "text", "text": "hi"}]]}
    assert read("post", post, mentions=mentions).text == "@Bo hi"


def test_bundle_and_its_children_are_linked_and_recalled_ones_are_gone() -> None:
    assert read("merge_forward", "x").bundle
    assert read(upper_message_id="om_b").within == "om_b"
    assert read(deleted=True).gone


@pytest.mark.parametrize("thing", [None, 7, [], {}, {"message_id": ""}, {"message_id": 5}])
def test_what_is_no_message_is_left_out(thing: Any) -> None:
    assert read_items([thing, item()], app_id=APP) == [read()]


def test_message_of_which_only_the_id_is_known_is_read() -> None:
    (said,) = read_items([{"message_id": "om_1", "body": None, "mentions": {}, "create_time": "soon"}], app_id=APP)
    assert said == Said("om_1", Author(), "", "[Unsupported Message]")


@pytest.mark.parametrize(
    ("card", "text"),
    [
        ({"schema": "2.0", "body": {"elements": [{"tag": "markdown", "content": "**done**\n- a"}]}}, "**done**\n- a"),
        (
            {
                "header": {"title": {"tag": "plain_text", "content": "Title"}},
                "elements": [
                    {
                        "tag": "div",
                        "text": {"tag": "lark_md", "content": "body"},
                        "fields": [{"text": {"content": "f"}}],
                    },
                    {"tag": "column_set", "columns": [{"elements": [{"tag": "markdown", "content": "cell"}]}]},
                    {"tag": "hr"},
                ],
            },
            "Title\nbody\nf\ncell",
        ),
        (
            {"title": "Simplified", "elements": [[{"tag": "text", "text": "a"}, {"tag": "a", "text": "b"}], [7, None]]},
            "Simplified\na b",
        ),
        ({}, ""),
        ([], ""),
        ("text", ""),
    ],
)
def test_words_of_a_card_are_found_where_they_simply_lie(card: Any, text: str) -> None:
    assert card_text(json.dumps(card)) == text


def test_hostile_card_is_bounded() -> None:
    assert card_text("{") == ""
    assert card_text("[" * 100_000) == ""
    assert card_text('{"elements":' * 500 + '{"text":"x"}' + "}" * 500) == ""
    assert len(card_text(json.dumps({"elements": [{"text": {"content": "x"}}] * 10_000})).splitlines()) == LINES_MAX


def test_files_are_kept_with_their_names() -> None:
    assert read("file", {"file_key": "f", "file_name": "合同.pdf"}).files == (
        SharedFile("om_1", "file", "f", "合同.pdf"),
    )
    assert read("image", {"image_key": "img_9"}).files == (SharedFile("om_1", "image", "img_9"),)
    post = {"title": "", "content": [[{"tag": "img", "image_key": "img_1"}, {"tag": "text", "text": "see"}]]}
    assert [file.key for file in read("post", post).files] == ["img_1"]
    assert read("text", {"text": "no file"}).files == ()
