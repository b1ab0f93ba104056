"""Content as people and platforms really send it: nothing that has words may lose them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.lark.chat.card_words import UPGRADE_SENTENCE, card_words
from gateway.lark.chat.content import flatten
from gateway.lark.chat.items import read_items


def text(value: str) -> dict[str, Any]:
    return {"tag": "text", "text": value, "style": []}


def link(words: str, href: str) -> dict[str, Any]:
    return {"tag": "a", "text": words, "href": href}


def at(user_id: str, name: str = "") -> dict[str, Any]:
    return {"tag": "at", "user_id": user_id, "user_name": name}


def post(*paragraphs: Any, **more: Any) -> str:
    return flatten("post", json.dumps({"title": "", "content": list(paragraphs), **more})).text


CUT = "https://a.test/very/long/pa"


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([text("get_"), text("user"), text("_name()")], "get_user_name()"),
        ([text("a "), text(" b")], "a  b"),
        ([text("see"), link("docs", "https://d.test")], "see docs (https://d.test)"),
        ([text("see ("), link("docs", "https://d.test"), text(").")], "see (docs (https://d.test))."),
        ([text("看"), link("面板", "https://d.test"), text("。")], "看 面板 (https://d.test)。"),
        ([at("ou_1", "Ann"), text("look")], "@Ann look"),
        ([at("ou_1", "Ann"), text(", look")], "@Ann, look"),
        ([at("ou_1", "Ann"), at("ou_2", "Bo")], "@Ann @Bo"),
        ([text("95%"), link("x", "https://d.test")], "95% x (https://d.test)"),
        ([{"tag": "img", "image_key": "i"}, text("above")], "[Image] above"),
        ([link(CUT, CUT), text("th?x=1&y=2")], "https://a.test/very/long/path?x=1&y=2"),
        ([link("https://a.test", "https://a.test"), text(" is it")], "https://a.test is it"),
        ([link("https://a.test", "https://a.test/"), text("看")], "https://a.test/ 看"),
        ([link("a.test/x", "https://a.test/x")], "https://a.test/x"),
        ([link("bare", "")], "bare"),
        ([link("", "https://a.test")], "https://a.test"),
        ([{"tag": "md", "text": "**as** `is`"}], "**as** `is`"),
        ([{"tag": "newer", "content": "words"}], "words"),
        ([text("see"), {"tag": "code_block", "language": "GO", "text": "x := 1\n"}], "see\n```go\nx := 1\n```"),
    ],
)
def test_spans_of_a_post_stand_as_they_were_written(spans: list[Any], expected: str) -> None:
    assert post(spans) == expected


def test_code_in_a_post_keeps_its_fence_and_language() -> None:
    code = {"tag": "code_block", "language": "PYTHON", "text": "def f():\n    return 1\n"}
    assert post([text("fix:")], [code], [text("thanks")]) == "fix:\n```python\ndef f():\n    return 1\n```\nthanks"
    assert post([{"tag": "code_block", "text": "a\n```\nb"}]) == "````\na\n```\nb\n````"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"zh_cn": {"title": "标题", "content": [[text("- 第一行")]]}}, "标题\n- 第一行"),
        ({"en_us": {"content": [[text("one")]]}, "ja_jp": {"content": [[text("two")]]}}, "one"),
        ({"title": "", "content": [text("one")]}, "one"),
        ({"content": [text("a"), text("b"), [text("c")], text("d")]}, "ab\nc\nd"),
        ({"zh_cn": 7}, ""),
    ],
)
def test_post_is_read_in_every_shape(fields: dict[str, Any], expected: str) -> None:
    assert flatten("post", json.dumps(fields)).text == expected


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("location", {"name": "1 Example Road", "longitude": "116.1", "latitude": "39.9"},
         "[Location] 1 Example Road (39.9, 116.1)"),
        ("location", {"name": "x", "longitude": 116.1, "latitude": True}, "[Location] x (116.1)"),
        ("todo", {"task_id": "t-1", "summary": {"title": "", "content": [[text("buy milk")]]},
                  "due_time": "1623124318000"}, "[To-do] buy milk (due 2021-06-08 03:51 UTC)"),
        ("share_calendar_event", {"summary": "Standup", "start_time": "1608265395000", "end_time": "1608267015000"},
         "[Calendar Event] Standup (2020-12-18 04:23 UTC – 2020-12-18 04:50 UTC)"),
        ("general_calendar", {"summary": "All hands"}, "[Calendar Event] All hands"),
        ("vote", {"topic": "Lunch?", "options": ["noodles", "rice"]}, "[Vote] Lunch?: noodles; rice"),
        ("folder", {"file_key": "f", "file_name": "docs"}, "[Folder] docs"),
        ("hongbao", {"text": "Good luck"}, "[Red Packet] Good luck"),
        ("video_chat", {"topic": "Retro", "start_time": "1608265395000"}, "[Video Chat] Retro (2020-12-18 04:23 UTC)"),
        ("system", {"template": "{from_user} invited {to_chatters}", "from_user": ["Ann"], "to_chatters": ["Bo", "Cy"]},
         "[System Message] Ann invited Bo, Cy"),
        ("share_user", {"user_id": "ou_1"}, "[Shared User Card]"),
        ("share_user", {"user_id": "ou_1", "user_name": "Ann"}, "[Shared User Card] Ann"),
        ("share_chat", {"chat_id": "oc_0000000000000001"}, "[Shared Chat]"),
        ("location", {"name": ["x"]}, "[Location]"),
        ("todo", {"summary": {"content": ["x", [7]]}, "due_time": "soon"}, "[To-do]"),
    ],
)  # fmt: skip
def test_kind_without_a_text_form_carries_its_words(kind: str, fields: dict[str, Any], expected: str) -> None:
    assert flatten(kind, json.dumps(fields)).text == expected


ALERT = {
    "title": "告警",
    "elements": [
        [text("CPU 95%"), {"tag": "a", "href": "https://grafana.test/d/1", "text": "面板"}],
        [{"tag": "button", "text": "ack", "type": "primary"}],
    ],
}
V1 = {
    "header": {"title": {"tag": "plain_text", "content": "告警"}},
    "elements": [
        {"tag": "div", "text": {"tag": "lark_md", "content": "**CPU** high"}, "extra": {"tag": "img", "img_key": "i",
         "alt": {"tag": "plain_text", "content": "graph"}}},
        {"tag": "action", "actions": [
            {"tag": "button", "text": {"tag": "plain_text", "content": "查看"}, "multi_url": {"url": "https://x.test/a"}},
            {"tag": "select_static", "placeholder": {"content": "who?"}, "options": [{"text": {"content": "Ann"}}]},
        ]},
        {"tag": "note", "elements": [{"tag": "plain_text", "content": "from monitoring"}]},
    ],
}  # fmt: skip
V2 = {
    "schema": "2.0",
    "header": {"title": {"tag": "plain_text", "content": "Report"}, "subtitle": {"content": "daily"}},
    "body": {
        "elements": [
            {"tag": "markdown", "content": "**all** well"},
            {
                "tag": "table",
                "columns": [{"name": "who", "display_name": "Who"}, {"name": "n"}],
                "rows": [{"who": "Ann|Bo", "n": 3}, {"who": [{"text": "tag", "color": "blue"}], "n": None}],
            },
            {
                "tag": "column_set",
                "columns": [{"tag": "column", "elements": [{"tag": "markdown", "content": "left"}]}],
            },
            {
                "tag": "button",
                "text": {"content": "Open"},
                "behaviors": [{"type": "callback", "value": {}}, {"type": "open_url", "default_url": "https://o.test"}],
            },
            {
                "tag": "form",
                "elements": [{"tag": "input", "label": {"content": "Your name"}, "placeholder": {"content": "…"}}],
            },
            {"tag": "collapsible_panel", "header": {"title": {"content": "More"}}, "elements": [{"content": "inside"}]},
            {"tag": "brand_new", "title": "N", "text": "newer", "url": "https://n.test", "elements": [{"text": "kid"}]},
        ]
    },
}


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (ALERT, "告警\nCPU 95% 面板 (https://grafana.test/d/1)\nack"),
        (
            {"title": "告警", "elements": [
                [text("CPU "), link("面板", "https://g.test/d/1")],
                [at("ou_x", "Ann"), text("请看")],
                [{"tag": "img", "image_key": "img_1"}],
            ]},
            "告警\nCPU 面板 (https://g.test/d/1)\n@Ann 请看\n[Image]",
        ),
        (V1, "告警\n**CPU** high\n[Image: graph]\n查看 (https://x.test/a)\nwho?\nAnn\nfrom monitoring"),
        (
            V2,
            "Report\ndaily\n**all** well\n| Who | n |\n| --- | --- |\n| Ann\\|Bo | 3 |\n| tag |  |\nleft\n"
            "Open (https://o.test)\nYour name\n…\nMore\ninside\nN\nnewer (https://n.test)\nkid",
        ),
        ({"json_card": json.dumps(ALERT)}, "告警\nCPU 95% 面板 (https://grafana.test/d/1)\nack"),
        ({"json_card": "{"}, ""),
        ({"i18n_elements": {"zh_cn": [{"tag": "markdown", "content": "你好"}], "en_us": [{"content": "hi"}]}}, "你好"),
        ({"header": {"title": {"tag": "plain_text", "i18n": {"en_us": "Hi"}}}}, "Hi"),
        ({"elements": [{"tag": "markdown", "i18n_content": {"en_us": "there"}}]}, "there"),
        ({"title": None, "elements": [[text(UPGRADE_SENTENCE)]]}, ""),
        ({"config": {"summary": {"content": "not shown"}}, "elements": []}, ""),
    ],
)  # fmt: skip
def test_words_of_a_card_are_read_in_every_form(card: dict[str, Any], expected: str) -> None:
    assert card_words(card) == expected


def test_card_reads_the_same_when_it_is_sent_and_when_it_is_quoted() -> None:
    content = json.dumps(ALERT)
    (quoted,) = read_items(
        [{"message_id": "om_1", "msg_type": "interactive", "body": {"content": content}}], app_id="a"
    )
    assert quoted.text == flatten("interactive", content).text == "告警\nCPU 95% 面板 (https://grafana.test/d/1)\nack"


def test_substitute_for_a_card_is_not_taken_for_its_words() -> None:
    card = {"title": None, "elements": [[text(UPGRADE_SENTENCE)]]}
    assert flatten("interactive", json.dumps(card)).text == "[interactive card]"
