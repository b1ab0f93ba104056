import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channel.message import ChatType, InboundMessage, MediaRef, MessageType, ReplyTo
from gateway.errors import RemoteProtocolError
from gateway.lark.chat.card_words import UPGRADE_SENTENCE
from gateway.lark.chat.content import decode_event, flatten, order_key
from gateway.lark.chat.kinds import ID_CHARS_MAX, bracketed_name, message_type
from gateway.lark.chat.mentions import Mention, is_bot, rewrite_mentions

BOT = {"bot_open_id": "ou_bot", "bot_union_id": "on_bot"}
OWN = {"key": "@_user_1", "name": "My Bot", "id": {"open_id": "ou_bot_wire", "union_id": "on_bot"}}
ALICE = {"key": "@_user_2", "name": "Alice", "id": {"open_id": "ou_alice", "union_id": "on_alice"}}


def event(*, header: dict[str, Any] | None = None, sender: dict[str, Any] | None = None, **message: Any) -> bytes:
    fields = {"message_id": "om_1", "chat_id": "oc_1", "chat_type": "p2p", "message_type": "text"} | message
    if not isinstance(fields.get("content"), str | None):
        fields["content"] = json.dumps(fields["content"])
    sent_by = {"sender_id": {"open_id": "ou_user", "union_id": "on_user"}, "sender_type": "user"} | (sender or {})
    top = {"event_id": "ev_1", "event_type": "im.message.receive_v1", "app_id": "cli_a"} | (header or {})
    return json.dumps({"schema": "2.0", "header": top, "event": {"sender": sent_by, "message": fields}}).encode()


def decoded(payload: bytes, **bot: str) -> InboundMessage:
    message = decode_event(payload, **bot)
    assert message is not None
    return message


# The envelope.


@pytest.mark.parametrize(
    "payload",
    [
        '{"type":"heartbeat"}',
        '{"type":"frame_ack","data":{"id":"1"}}',
        '{"type":"event_callback","header":{"event_type":"im.message.unknown_kind"}}',
        '{"type":"url_verification","challenge":"x","token":"t"}',
        '{"header":{"event_type":"im.message.message_read_v1"},"event":{}}',
        '{"header":7,"event":[]}',
        "{}",
        "",
        " \n",
    ],
)
def test_decode_of_an_event_that_is_no_message_is_none(payload: str) -> None:
    assert decode_event(payload.encode()) is None


@pytest.mark.parametrize("payload", [b"not-json", b"[]", b"7", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":1}x'])
def test_decode_of_what_is_no_json_object_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_event(payload)


@pytest.mark.parametrize(
    ("fields", "missing", "ids"),
    [
        ({"message_id": None}, "message_id", ("ev_1", "", "oc_1")),
        ({"chat_id": 7}, "chat_id", ("ev_1", "om_1", "")),
        ({"sender": {"sender_id": None}}, "open_id", ("ev_1", "om_1", "oc_1")),
    ],
)
def test_decode_of_a_message_without_its_ids_has_a_problem_and_no_words(
    fields: dict[str, Any], missing: str, ids: tuple[str, str, str]
) -> None:
    message = decoded(event(content={"text": "hi"}, **fields))
    assert message.problem == f"a message without {missing}"
    assert (message.event_id, message.message_id, message.source.chat_id) == ids
    assert (message.app_id, message.text, message.command_text, message.raw) == ("cli_a", "", "", None)


def test_decode_of_a_whole_message_has_no_problem() -> None:
    assert decoded(event(content={"text": "hi"})).problem == ""


@pytest.mark.parametrize("ids", [None, {}, {"open_id": None, "union_id": "on_b"}])
def test_decode_of_a_message_of_an_app_does_without_its_open_id(ids: Any) -> None:
    message = decoded(event(content={"text": "hi"}, sender={"sender_type": "app", "sender_id": ids}))
    assert (message.source.sender_id, message.sender_is_bot) == ("", True)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_decode_of_fields_of_any_type_is_a_message(junk: Any) -> None:
    names = ("content", "mentions", "create_time", "chat_type", "thread_id", "parent_id", "message_type", "chat_id")
    for name in names:
        assert not decoded(event(**{name: junk})).problem or name == "chat_id"


def test_decode_of_a_private_message_has_every_field() -> None:
    payload = event(
        content={"text": "hello"},
        create_time="1700000000123",
        root_id="om_root",
        parent_id="om_parent",
        thread_id="omt_9",
        chat_type="group",
    )
    message = decoded(payload)
    assert message.app_id == "cli_a"
    assert message.event_id == "ev_1"
    assert message.event_type == "im.message.receive_v1"
    assert message.message_id == "om_1"
    assert message.source.channel_type == "feishu"
    assert message.source.chat_id == "oc_1"
    assert message.source.chat_type is ChatType.GROUP
    assert message.source.sender_id == "ou_user"
    assert message.source.sender_stable_id == "on_user"
    assert message.source.thread_id == "omt_9"
    assert message.type is MessageType.TEXT
    assert message.text == message.command_text == "hello"
    assert message.sent_at == datetime(2023, 11, 14, 22, 13, 20, 123000, UTC)
    assert message.reply_to == ReplyTo("om_parent", "om_root")
    assert not message.sender_is_bot
    assert message.raw["message"]["content"] == '{"text": "hello"}'
    assert "hello" not in repr(message.raw["sender"])


def test_decode_of_the_older_envelope_reads_type_app_and_id_from_their_places() -> None:
    body = json.loads(event(content={"text": "hi"}))
    body["event"] |= {"type": "im.message.receive_v1", "app_id": "cli_old"}
    payload = json.dumps({"type": "event_callback", "uuid": "u-1", "event": body["event"]}).encode()
    message = decoded(payload)
    assert (message.app_id, message.event_id, message.text) == ("cli_old", "u-1", "hi")


def test_decode_of_content_that_is_not_json_keeps_the_message() -> None:
    message = decoded(event(content="not-json"))
    assert (message.message_id, message.text) == ("om_1", "")


def test_decode_of_an_image_has_a_placeholder_its_reference_and_the_content() -> None:
    message = decoded(event(message_type="image", content='{"image_key":"img1"}'))
    assert message.text == "[Image]"
    assert message.media == (MediaRef(MessageType.IMAGE, "img1"),)
    assert message.raw["message"]["content"] == '{"image_key":"img1"}'
    assert message.command_text == ""


@pytest.mark.parametrize(("sender_type", "is_one"), [("user", False), ("app", True), ("bot", True), ("", False)])
def test_decode_tells_a_bot_by_its_sender_type(sender_type: str, is_one: bool) -> None:
    assert decoded(event(content={"text": "hi"}, sender={"sender_type": sender_type})).sender_is_bot is is_one


@pytest.mark.parametrize("name", ["group", "topic_group", "something_new", ""])
def test_decode_of_a_chat_that_is_not_p2p_counts_as_a_group(name: str) -> None:
    assert decoded(event(content={"text": "hi"}, chat_type=name)).source.chat_type is ChatType.GROUP


@pytest.mark.parametrize("when", [None, "", "soon", "9" * 40, 1e300, True, [], "-" + "9" * 30])
def test_decode_of_an_impossible_time_has_none(when: Any) -> None:
    assert decoded(event(content={"text": "hi"}, create_time=when)).sent_at is None


def test_decode_takes_a_time_that_came_as_a_number() -> None:
    assert decoded(event(content={"text": "hi"}, create_time=1700000000000)).sent_at == datetime(
        2023, 11, 14, 22, 13, 20, tzinfo=UTC
    )


def test_decode_removes_what_the_database_cannot_store() -> None:
    message = decoded(event(content='{"text":"a\\u0000b\\ud83dc"}', thread_id="om\x00t"))
    assert message.text == "abc"
    assert message.source.thread_id == "omt"


def test_decode_of_an_envelope_with_half_an_emoji_keeps_the_message() -> None:
    payload = event(content={"text": "hi"}, mentions=[{"key": "@_user_1", "name": "?"}]).replace(b'"?"', b'"x\\ud83d"')
    assert decoded(payload).text == "hi"


def test_decode_of_a_reply_without_a_parent_falls_back_to_the_root() -> None:
    assert decoded(event(content={"text": "x"}, root_id="om_r")).reply_to == ReplyTo("om_r", "om_r")
    assert decoded(event(content={"text": "x"})).reply_to is None


# The order key.


def test_order_key_is_the_chat() -> None:
    assert order_key(event(content={"text": "hi"}, chat_id="oc_7")) == "oc_7"


@pytest.mark.parametrize(
    "payload", [b"", b"nope", b"{}", b"[]", b'{"event":7}', b'{"event":{"message":{"chat_id":7}}}', b"[" * 100_000]
)
def test_order_key_of_what_has_no_chat_is_empty(payload: bytes) -> None:
    assert order_key(payload) == ""


# Content.


@pytest.mark.parametrize(
    ("platform_type", "content", "text"),
    [
        ("text", '{"text":"hello"}', "hello"),
        ("text", '{"text":7}', ""),
        ("text", "[]", ""),
        ("image", '{"image_key":"i"}', "[Image]"),
        ("file", '{"file_key":"f"}', "[File]"),
        ("audio", '{"file_key":"f"}', "[Audio]"),
        ("media", '{"file_key":"f"}', "[Video]"),
        ("video", '{"file_key":"f"}', "[Video]"),
        ("sticker", '{"file_key":"f"}', "[Sticker]"),
        ("interactive", "{}", "[interactive card]"),
        ("share_chat", '{"chat_id":"oc"}', "[Shared Chat]"),
        ("share_user", '{"user_id":"ou"}', "[Shared User Card]"),
        ("merge_forward", '{"content":"Merged and Forwarded Message"}', "[forwarded messages]"),
        ("system", '{"template":"x"}', "[System Message] x"),
        ("location", '{"name":"x"}', "[Location] x"),
        ("todo", '{"task_id":"x"}', "[To-do]"),
        ("general_calendar", "{}", "[Calendar Event]"),
        ("brand_new", "{}", "[Brand New]"),
        ("", "{}", "[Unsupported Message]"),
        ("<b>\n", "{}", "[Unsupported Message]"),
        (
            "post",
            '{"content":[[{"tag":"text","text":"line one"}],[{"tag":"text","text":"line two"}]]}',
            "line one\nline two",
        ),
        (
            "post",
            '{"content":[[{"tag":"at","user_id":"@_user_1","user_name":""},{"tag":"text","text":"look"},'
            '{"tag":"img","image_key":"img_x"},{"tag":"emotion","emoji_type":"SMILE"}]]}',
            "@_user_1 look [Image]",
        ),
        ("post", "not json", ""),
        ("post", "", ""),
        ("post", '{"content":"x","title":"only a title"}', "only a title"),
        ("post", '{"content":[7,[7,{"tag":7}],[]]}', ""),
        ("post", '{"title":"T","content":[[{"tag":"text","text":"a"}],[]]}', "T\na"),
        ("post", '{"content":[[{"tag":"text","text":"a"}],[],[{"tag":"text","text":"b"}]]}', "a\n\nb"),
        ("post", '{"content":[[{"tag":"a","text":"site","href":"https://x"}]]}', "site (https://x)"),
        ("post", '{"content":[[{"tag":"a","href":"https://x"},{"tag":"a","text":"site"}]]}', "https://x site"),
        ("post", '{"content":[[{"tag":"at","user_id":"ou_9","user_name":"Bob"},{"tag":"hr"}]]}', "@Bob ---"),
        (
            "post",
            '{"content":[[{"tag":"media","file_key":"f"},{"tag":"code_block","text":"x = 1"}]]}',
            "[Video]\n```\nx = 1\n```",
        ),
        ("post", '{"content":[[{"tag":"future","text":"still read"}]]}', "still read"),
    ],
)
def test_flatten_gives_plain_text(platform_type: str, content: str, text: str) -> None:
    assert flatten(platform_type, content).text == text


@pytest.mark.parametrize(
    ("platform_type", "content", "media"),
    [
        ("file", '{"file_key":"f","file_name":"a.txt"}', (MediaRef(MessageType.FILE, "f", "a.txt"),)),
        ("audio", '{"file_key":"f","duration":3}', (MediaRef(MessageType.AUDIO, "f"),)),
        ("media", '{"file_key":"f","file_name":"v.mp4"}', (MediaRef(MessageType.VIDEO, "f", "v.mp4"),)),
        ("image", "{}", ()),
        ("image", "not json", ()),
        ("sticker", '{"file_key":"f"}', ()),
        (
            "post",
            '{"content":[[{"tag":"img","image_key":"i"}],[{"tag":"media","file_key":"f"}]]}',
            (MediaRef(MessageType.IMAGE, "i"), MediaRef(MessageType.VIDEO, "f")),
        ),
    ],
)
def test_flatten_lists_the_files(platform_type: str, content: str, media: tuple[MediaRef, ...]) -> None:
    assert flatten(platform_type, content).media == media


@pytest.mark.parametrize(
    ("platform_type", "kind"),
    [
        ("text", "text"),
        ("post", "text"),
        ("merge_forward", "text"),
        ("image", "image"),
        ("file", "file"),
        ("audio", "audio"),
        ("media", "video"),
        ("video", "video"),
        ("sticker", "unknown"),
        ("", "unknown"),
    ],
)
def test_message_type_maps_into_the_closed_set(platform_type: str, kind: str) -> None:
    assert message_type(platform_type).value == kind


def test_bracketed_name_of_a_hostile_type_is_not_repeated() -> None:
    assert bracketed_name("](https://evil.example)") == "[Unsupported Message]"


# Mentions.


@pytest.mark.parametrize(
    ("text", "shaped"),
    [
        ("@_user_1 ping test", "ping test"),
        ("@_user_1 hey @_user_2 take a look", "hey @Alice take a look"),
        ("just a normal message", "just a normal message"),
        ("ping @_user_1", "ping"),
        ("ping  @_user_1  test", "ping  test"[:5] + " " + " test"),
        ("hi @_user_1, there", "hi, there"),
        ("@_user_1\tping", "\tping"),
        ("a\n@_user_1\n  b", "a\n\n  b"),
        ("@_user_1", ""),
        ("@_user_1 @_user_1 x", "x"),
        ("@_user_2 @_user_1", "@Alice"),
        ("@_all look", "@_all look"),
        ("@_user_3 who", "@_user_3 who"),
    ],
)
def test_decode_of_a_group_message_puts_names_for_placeholders(text: str, shaped: str) -> None:
    payload = event(chat_type="group", content={"text": text}, mentions=[OWN, ALICE])
    assert decoded(payload, **BOT).text == shaped


def test_rewrite_of_ten_mentions_matches_the_longest_key_first() -> None:
    mentions = [Mention(f"@_user_{n}", f"P{n}") for n in range(1, 13)]
    text = " ".join(f"@_user_{n}" for n in range(12, 0, -1))
    assert rewrite_mentions(text, mentions, lambda _: False) == " ".join(f"@P{n}" for n in range(12, 0, -1))


def test_rewrite_does_not_read_again_what_it_put_in() -> None:
    mentions = [Mention("@_user_1", "@_user_2"), Mention("@_user_2", "Eve")]
    assert rewrite_mentions("@_user_1", mentions, lambda _: False) == "@@_user_2"


def test_rewrite_leaves_a_mention_without_a_name() -> None:
    assert rewrite_mentions("hey @_user_1", [Mention("@_user_1")], lambda _: False) == "hey @_user_1"


@pytest.mark.parametrize("key", ["", " ", "x"])
def test_rewrite_ignores_a_key_that_is_no_placeholder(key: str) -> None:
    assert rewrite_mentions("x y x", [Mention(key, "N")], lambda _: True) == "x y x"


_words = st.text(alphabet=" \t\n\u00a0ab", max_size=6)


@given(st.lists(st.tuples(_words, st.sampled_from(["@_user_1", "@_user_2", "@_user_12"])), max_size=6), _words)
def test_rewrite_changes_no_white_space_but_one_blank_per_own_mention(parts: list[tuple[str, str]], tail: str) -> None:
    text = "".join(words + key for words, key in parts) + tail
    mentions = [Mention("@_user_1", "Bot"), Mention("@_user_2", "Eve"), Mention("@_user_12", "Zoe")]
    own = sum(key == "@_user_1" for _, key in parts)
    rewritten = rewrite_mentions(text, mentions, lambda mention: mention.key == "@_user_1")
    assert "".join(rewritten.split()) == "".join(
        "".join(words.split()) + {"@_user_1": "", "@_user_2": "@Eve", "@_user_12": "@Zoe"}[key] for words, key in parts
    ) + "".join(tail.split())
    for blank in "\t\n\u00a0":
        assert rewritten.count(blank) == text.count(blank)
    assert text.count(" ") - own <= rewritten.count(" ") <= text.count(" ")


@given(st.text())
def test_rewrite_without_mentions_is_the_identity(text: str) -> None:
    assert rewrite_mentions(text, [Mention("@_user_1", "A")], lambda _: False).count("@_user_1") == 0
    assert rewrite_mentions(text, [], lambda _: True) == text


def test_decode_of_a_sibling_bot_with_our_open_id_names_it() -> None:
    bot = {"bot_open_id": "ou_self_canonical", "bot_union_id": "on_self_union"}
    sibling = {
        "key": "@_user_1",
        "name": "Sibling Bot",
        "id": {"open_id": "ou_self_canonical", "union_id": "on_sibling_union"},
    }
    message = decoded(event(chat_type="group", content={"text": "@_user_1 hi"}, mentions=[sibling]), **bot)
    assert message.text == "@Sibling Bot hi"
    assert not message.addressed_to_bot


@pytest.mark.parametrize("user_name", ["", "Bot"])
def test_decode_of_a_post_resolves_its_mentions_and_addresses_the_bot(user_name: str) -> None:
    spans = [
        {"tag": "at", "user_id": "@_user_1", "user_name": user_name},
        {"tag": "text", "text": "please review"},
        {"tag": "at", "user_id": "@_user_2", "user_name": ""},
    ]
    own = {"key": "@_user_1", "name": "Bot", "id": {"open_id": "ou_bot"}}
    payload = event(chat_type="group", message_type="post", content={"content": [spans]}, mentions=[own, ALICE])
    message = decoded(payload, bot_open_id="ou_bot")
    assert message.text == "please review @Alice"
    assert message.addressed_to_bot


@pytest.mark.parametrize(
    ("mention", "bot", "addressed"),
    [
        ({"open_id": "ou_bot"}, {"bot_open_id": "ou_bot"}, True),
        ({"open_id": "ou_wire", "union_id": "on_bot"}, BOT, True),
        ({"open_id": "ou_other"}, {"bot_open_id": "ou_bot"}, False),
        (
            {"open_id": "ou_bot_a_canonical", "union_id": "on_bot_b_union"},
            {"bot_open_id": "ou_bot_a_canonical", "bot_union_id": "on_bot_a_union"},
            False,
        ),
        ({"open_id": "ou_bot"}, BOT, True),
        ({"open_id": ""}, {"bot_open_id": ""}, False),
    ],
)
def test_decode_of_a_group_message_is_addressed_by_the_bots_own_mention(
    mention: dict[str, str], bot: dict[str, str], addressed: bool
) -> None:
    mentions = [{"key": "@_user_1", "name": "N", "id": mention}]
    payload = event(chat_type="group", content={"text": "@_user_1 hi"}, mentions=mentions)
    assert decoded(payload, **bot).addressed_to_bot is addressed


def test_decode_of_a_private_message_is_never_addressed() -> None:
    assert not decoded(event(content={"text": "@_user_1 hi"}, mentions=[OWN]), **BOT).addressed_to_bot


def test_naming_everybody_is_not_naming_the_bot() -> None:
    assert not is_bot(Mention("@_all", "everyone", "ou_bot", "on_bot"), **BOT)


# Input that means harm.


def test_order_key_of_a_message_with_half_an_emoji_is_its_chat() -> None:
    """Such a message is read in the end, so it must not overtake the others of its chat."""
    payload = event(content={"text": "x"}, header={"tenant_key": "\ud83d"}, chat_id="oc_7")
    assert decoded(payload).source.chat_id == "oc_7"
    assert order_key(payload) == "oc_7"


def test_rewrite_of_thousands_of_mentions_takes_time_by_the_text_alone() -> None:
    mentions = [Mention(f"@f{number:x}z", "N") for number in range(30_000)]
    began = time.perf_counter()
    assert rewrite_mentions("@f" * 100_000, mentions, lambda _: False) == "@f" * 100_000
    # A look at every key at every place takes tens of seconds, during which no bot is served.
    assert time.perf_counter() - began < 3


def test_rewrite_of_thousands_of_own_mentions_takes_time_by_the_text_alone() -> None:
    began = time.perf_counter()
    assert rewrite_mentions("x @_user_1" * 50_000, [Mention("@_user_1")], lambda _: True) == "x" * 50_000
    assert time.perf_counter() - began < 3


def test_rewrite_takes_the_blank_before_from_whatever_was_written_last() -> None:
    mentions = [Mention("@_user_1", "Bot"), Mention("@_user_2", "Eve ")]
    text = "@_user_2@_user_1@_user_1"
    assert rewrite_mentions(text, mentions, lambda mention: mention.key == "@_user_1") == "@Eve"
    assert rewrite_mentions(" @_user_1@_user_1", mentions, lambda mention: mention.key == "@_user_1") == ""


@pytest.mark.parametrize("field", ["message_id", "chat_id", "thread_id", "parent_id", "root_id"])
def test_decode_of_a_message_with_an_absurd_id_has_a_problem(field: str) -> None:
    """It could not be stored: the indexes take keys of about 2,700 bytes."""
    assert decoded(event(content={"text": "hi"}, **{field: "x" * ID_CHARS_MAX})).problem == ""
    message = decoded(event(content={"text": "hi"}, **{field: "x" * (ID_CHARS_MAX + 1)}))
    assert field in message.problem
    assert "xxx" not in repr(message)


@pytest.mark.parametrize(
    "where",
    [
        {"sender": {"sender_id": {"open_id": "o" * 5000}}},
        {"header": {"event_id": "o" * 5000}},
        {"header": {"app_id": "o" * 5000}},
    ],
)
def test_decode_of_an_absurd_id_around_the_message_has_a_problem(where: dict[str, Any]) -> None:
    message = decoded(event(content={"text": "hi"}, **where))
    assert "5000 characters" in message.problem
    assert "ooo" not in repr(message)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@_all @_user_1 /issue Fix", "/issue Fix"),
        ("@_user_1\u3000/issue Fix", "/issue Fix"),
        ("@_user_1\u00a0/issue Fix", "/issue Fix"),
        ("\ufeff@_user_2 @_user_1 /issue Fix for @_user_2", "/issue Fix for @Alice"),
        ("@_user_2 please /issue", "please /issue"),
    ],
)
def test_command_is_looked_for_behind_mentions(text: str, words: str) -> None:
    message = decoded(event(chat_type="group", content={"text": text}, mentions=[OWN, ALICE]), **BOT)
    assert message.command_text.strip(" \u3000\u00a0\ufeff") == words


def test_command_below_a_picture_and_a_mention_is_found() -> None:
    spans = [
        [{"tag": "img", "image_key": "i"}],
        [{"tag": "at", "user_id": "@_user_2"}, {"tag": "text", "text": "/issue F"}],
    ]
    payload = event(chat_type="group", message_type="post", content={"content": spans}, mentions=[OWN, ALICE])
    message = decoded(payload, **BOT)
    assert message.text == "[Image]\n@Alice /issue F"
    assert message.command_text == "[Image]\n /issue F"


@pytest.mark.parametrize(
    ("card", "withheld"),
    [
        ({"title": None, "elements": [[{"tag": "text", "text": UPGRADE_SENTENCE}]]}, True),
        ({"title": "Alarm", "elements": [[{"tag": "text", "text": UPGRADE_SENTENCE}]]}, False),
        ({"title": None, "elements": [[{"tag": "text", "text": "CPU 95%"}]]}, False),
        ({"type": "template"}, False),
    ],
)
def test_card_that_comes_without_its_words_is_marked(card: dict[str, Any], withheld: bool) -> None:
    assert flatten("interactive", json.dumps(card)).withheld is withheld
