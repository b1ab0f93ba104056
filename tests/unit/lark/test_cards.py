"""What is sent fits into a request, and a card can be patched."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.replies import Button
from gateway.lark.chat.cards import (
    CARD_REQUEST_BYTES_MAX,
    TEXT_REQUEST_BYTES_MAX,
    Rendered,
    render_answer,
    render_card,
    render_error,
    render_notice,
    render_question,
    split_answer,
)

TABLE = "| a | b |\n|---|---|\n| 1 | 2 |\n\n"


def _card(rendered: Rendered) -> dict[str, object]:
    assert rendered.type == "interactive"
    card: dict[str, object] = json.loads(rendered.content)
    return card


def test_prose_is_text_and_markdown_is_a_card() -> None:
    assert json.loads(render_answer("sure").content) == {"text": "sure"}
    card = _card(render_answer("**sure**"))
    assert card["schema"] == "2.0"
    assert card["body"] == {"elements": [{"tag": "markdown", "content": "**sure**"}]}


@pytest.mark.parametrize("rendered", [render_card("# x"), render_error("it failed")])
def test_every_card_may_be_patched(rendered: Rendered) -> None:
    config = _card(rendered)["config"]
    assert isinstance(config, dict)
    assert config["update_multi"] is True


def test_more_tables_than_a_card_takes_are_several_cards() -> None:
    assert split_answer(TABLE * 3) == [TABLE * 3]
    parts = split_answer("intro\n\n" + TABLE * 5 + "end")
    assert [part.count("|---|") for part in parts] == [3, 2]
    assert {render_answer(part).type for part in parts} == {"interactive"}


def test_picture_by_address_is_a_link_and_the_rest_keeps_its_form() -> None:
    card = _card(render_answer("# Report\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n![cat](https://img.test/c.png)"))
    (element,) = card["body"]["elements"]  # type: ignore[index]
    assert element["content"] == "# Report\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[cat](https://img.test/c.png)"


@pytest.mark.parametrize("text", ["  one\n\ntwo \n", "# one\n\n\ntwo\n"])
def test_short_answer_is_left_alone(text: str) -> None:
    assert split_answer(text) == [text]


def test_answer_that_would_fill_many_cards_is_text() -> None:
    text = "- item\n" * 30_000
    parts = split_answer(text)
    assert len(parts) == 2
    assert {render_answer(part).type for part in parts} == {"text"}


def test_long_markdown_is_several_cards() -> None:
    parts = split_answer("\n\n".join(f"## Part {n}\n\n{'words ' * 400}" for n in range(20)))
    assert len(parts) == 2
    assert {render_answer(part).type for part in parts} == {"interactive"}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["\n", '"', "\\", "漢", "😀", "\x01", "a", "- x\n", "`a` "]), st.integers(1, 60_000))
def test_every_part_fits_into_its_request(piece: str, times: int) -> None:
    for part in split_answer(piece * times):
        rendered = render_answer(part)
        limit = TEXT_REQUEST_BYTES_MAX if rendered.type == "text" else CARD_REQUEST_BYTES_MAX
        assert rendered.request_bytes < limit


def test_question_is_a_card_with_a_primary_button_in_place_of_the_link() -> None:
    link = "https://g.test/lark/bind?token=fake"
    rendered = render_question(f"Link this account first.\n{link}", Button("去绑定", link))
    card = json.loads(rendered.content)
    words, button = card["body"]["elements"]
    assert words == {"tag": "markdown", "content": "Link this account first."}
    assert (button["tag"], button["type"], button["text"]["content"]) == ("button", "primary", "去绑定")
    assert button["behaviors"] == [{"type": "open_url", "default_url": link}]
    assert card["config"]["update_multi"] is True
    assert link not in card["config"]["summary"]["content"] + repr(rendered)


def test_notice_with_a_heading_is_a_card_headed_with_it() -> None:
    rendered = render_notice("Nobody runs me.", "Echo **bold**")
    card = json.loads(rendered.content)
    assert card["header"]["title"] == {"tag": "plain_text", "content": "Echo **bold**"}
    assert card["body"]["elements"] == [{"tag": "markdown", "content": "Nobody runs me."}]
    assert card["config"] == {"update_multi": True, "summary": {"content": "Nobody runs me."}}
