"""Pictures and files: what a message says about them, and who may download them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from gateway.simulator.exchange import Answer, ConnectionLost
from gateway.simulator.messages import Message
from gateway.simulator.platform import Person, SimChat
from gateway.simulator.resources import Attachment, ResourceStore, keys_in
from gateway.simulator.simulator import Simulator, Utterance
from support.platform_caller import MESSAGES, Caller

PICTURE = b"\x89PNG picture"


def content(message: Message) -> dict[str, Any]:
    return dict(json.loads(message.content))


async def read(answer: Answer) -> bytes:
    assert answer.stream is not None
    return b"".join([piece async for piece in answer.stream()])


async def download(caller: Caller, message: Message, key: str, asked_as: str) -> Answer:
    return await caller.answer("GET", f"{MESSAGES}/{message.message_id}/resources/{key}?type={asked_as}")


def say(simulator: Simulator, person: Person, chat: SimChat, *attachments: Attachment, text: str = "") -> Message:
    return simulator.say(person, chat, Utterance(text, attachments=attachments)).message


@pytest.mark.parametrize(
    ("attachment", "members"),
    [
        (Attachment("image"), {"image_key"}),
        (Attachment("file", "plan.pdf"), {"file_key", "file_name"}),
        (Attachment("audio", duration_ms=1500), {"file_key", "duration"}),
        (Attachment("media", "walk.mp4", duration_ms=9000), {"file_key", "image_key", "file_name", "duration"}),
        (Attachment("sticker"), {"file_key"}),
    ],
)
async def test_attachment_alone_is_a_message_of_its_kind(
    simulator: Simulator, chat: SimChat, ada: Person, attachment: Attachment, members: set[str]
) -> None:
    message = say(simulator, ada, chat, attachment)

    assert message.message_type == attachment.kind
    assert content(message).keys() == members
    assert content(message).get("duration", attachment.duration_ms) == attachment.duration_ms
    assert content(message).get("file_name", attachment.name) == attachment.name


async def test_attachment_with_words_is_a_post_with_mentions(simulator: Simulator, chat: SimChat, ada: Person) -> None:
    picture, video = Attachment("image", "a.png"), Attachment("media", "b.mp4")
    message = say(simulator, ada, chat, picture, video, text="hi @Echo\nsee")

    assert message.message_type == "post"
    first, second, third, fourth = content(message)["content"]
    assert [(span["tag"], span.get("text"), span.get("user_id")) for span in first] == [
        ("text", "hi ", None),
        ("at", None, "@_user_1"),
    ]
    assert second[0]["text"] == "see"
    assert (third[0]["tag"], third[0]["image_key"][:4]) == ("img", "img_")
    assert (fourth[0]["tag"], fourth[0]["file_key"][:5]) == ("media", "file_")
    with pytest.raises(ValueError, match="no file"):
        say(simulator, ada, chat, Attachment("file", "c.pdf"), text="hi")


async def test_attachment_named_in_given_content_gets_its_key_there(
    simulator: Simulator, chat: SimChat, ada: Person
) -> None:
    given = {"title": "T", "content": [[{"tag": "text", "text": "a.png"}, {"tag": "img", "image_key": "a.png"}]]}
    message = simulator.say(
        ada, chat, Utterance(message_type="post", content=given, attachments=[Attachment("image", "a.png")])
    ).message

    words, picture = content(message)["content"][0]
    assert words["text"] == "a.png"
    assert picture["image_key"].startswith("img_")


async def test_download_gives_bytes_type_and_any_name(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person
) -> None:
    message = say(simulator, ada, chat, Attachment("file", '计划 "1".json', "application/json", b'{"code":1}'))
    answer = await download(caller, message, content(message)["file_key"], "file")

    headers = dict(answer.headers)
    assert (answer.status, headers["content-type"], answer.length) == (200, "application/json", 10)
    assert headers["content-disposition"] == (
        "attachment; filename=\"__ _1_.json\"; filename*=UTF-8''%E8%AE%A1%E5%88%92%20%221%22.json"
    )
    assert await read(answer) == b'{"code":1}'


async def test_download_cover_and_video_have_types_of_their_own(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person
) -> None:
    message = say(simulator, ada, chat, Attachment("media", "walk.mp4", data=b"moving"))
    video = await download(caller, message, content(message)["file_key"], "file")
    cover = await download(caller, message, content(message)["image_key"], "image")

    assert await read(video) == b"moving"
    assert (await read(cover)).startswith(b"\x89PNG")


async def test_download_inside_a_post_is_found(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person
) -> None:
    message = say(simulator, ada, chat, Attachment("image", data=PICTURE), text="look")
    answer = await download(caller, message, content(message)["content"][1][0]["image_key"], "image")
    assert await read(answer) == PICTURE


@pytest.mark.parametrize(
    ("attachment", "asked_as", "code"),
    [
        (Attachment("image"), "file", 234001),
        (Attachment("image"), "picture", 234001),
        (Attachment("image"), "", 234001),
        (Attachment("file"), "image", 234001),
        (Attachment("sticker"), "file", 234043),
        (Attachment("file", size=100 * 1024 * 1024 + 1), "file", 234037),
    ],
)
async def test_download_refusal_is_http_200_with_a_code(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person, attachment: Attachment, asked_as: str, code: int
) -> None:
    message = say(simulator, ada, chat, attachment)
    [key] = [value for name, value in content(message).items() if name.endswith("_key")]
    answer = await download(caller, message, key, asked_as)

    document = json.loads(answer.body)
    assert (answer.status, document["code"], dict(answer.headers)["content-type"][:16]) == (
        200,
        code,
        "application/json",
    )
    assert document["msg"]


async def test_download_by_a_bot_outside_the_chat_or_of_another_message_is_refused(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person
) -> None:
    group = simulator.create_group("Others", [], [ada])
    theirs = say(simulator, ada, group, Attachment("image"))
    ours = say(simulator, ada, chat, Attachment("image"))
    key = content(theirs)["image_key"]

    assert (await download(caller, theirs, key, "image")).code == 234004
    assert (await download(caller, ours, key, "image")).code == 234003


async def test_download_planned_to_fail_does_so(
    simulator: Simulator, caller: Caller, chat: SimChat, ada: Person
) -> None:
    message = say(simulator, ada, chat, Attachment("image", data=PICTURE))
    key = content(message)["image_key"]
    simulator.fail_next("/open-apis/im/v1/messages/*/resources/*", status=502, body="<html>")

    assert (await download(caller, message, key, "image")).status == 502
    assert await read(await download(caller, message, key, "image")) == PICTURE


async def test_made_bytes_are_the_same_however_they_are_cut() -> None:
    async def made(**how: Any) -> bytes:
        return b"".join([piece async for piece in Attachment("file", size=10_000, **how).pieces()])

    whole = await made()
    assert len(whole) == 10_000
    assert await made(piece_bytes=7) == whole
    assert whole[251:502] == whole[:251]


async def test_pieces_wait_before_each_and_may_break(autojump_clock: trio.testing.MockClock) -> None:
    attachment = Attachment("file", data=b"abcdef", piece_bytes=2, pause_seconds=3, breaks_after=3)
    read = []
    with trio.fail_after(60):
        with pytest.raises(ConnectionLost):
            async for piece in attachment.pieces():
                read.append((trio.current_time(), piece))
    assert [piece for _, piece in read] == [b"ab", b"c"]
    assert read[1][0] - read[0][0] == 3


@pytest.mark.parametrize(
    "wrong", [{"kind": "hologram"}, {"kind": "file", "data": b"x", "size": 1}, {"kind": "file", "size": -1}]
)
def test_attachment_impossible_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"attachment|size"):
        Attachment(**wrong)


def test_store_full_forgets_the_oldest() -> None:
    store = ResourceStore(held_bytes_max=10)
    first, second = (store.add(Attachment("file", data=b"123456")) for _ in range(2))

    assert first not in store
    assert store.get(second).data == b"123456"
    with pytest.raises(LookupError):
        store.get(first)


def form(**parts: tuple[str, bytes] | str) -> bytes:
    body = b""
    for name, part in parts.items():
        file_name, data = ("", part.encode()) if isinstance(part, str) else part
        named = f'; filename="{file_name}"' if file_name else ""
        body += f'--edge\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + data + b"\r\n"
    return body + b"--edge--\r\n"


async def upload(caller: Caller, path: str, body: bytes) -> dict[str, Any]:
    headers = {"content-type": "multipart/form-data; boundary=edge"}
    return dict(json.loads((await caller.answer("POST", path, body, **headers)).body))


async def test_upload_by_a_bot_can_be_sent_and_downloaded(caller: Caller, chat: SimChat) -> None:
    data = b"\r\n--edg\x00\xff\r\n"
    image = await upload(caller, "/open-apis/im/v1/images", form(image_type="message", image=("a.png", data)))
    file = await upload(caller, "/open-apis/im/v1/files", form(file_type="stream", file_name="b.txt", file=("b", data)))

    for members, kind in ((image["data"], "image"), (file["data"], "file")):
        _, sent = await caller.send(chat, "", msg_type=kind, content=json.dumps(members))
        [key] = members.values()
        target = f"{MESSAGES}/{sent['data']['message_id']}/resources/{key}?type={kind}"
        assert await read(await caller.answer("GET", target)) == data


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (form(file_type="stream", file="no filename"), 234001),
        (form(file_type="exe", file=("a", b"x")), 234001),
        (form(file_type="stream", file=("a", b"")), 234010),
        (b"", 234001),
    ],
)
async def test_upload_wrong_is_refused(caller: Caller, body: bytes, code: int) -> None:
    assert (await upload(caller, "/open-apis/im/v1/files", body))["code"] == code


def test_keys_are_found_in_order_and_however_deep() -> None:
    deep: Any = {"file_key": "file_last"}
    for _ in range(100_000):
        deep = [deep]
    content = {"content": [[{"tag": "img", "image_key": "img_first"}], [{"file_key": "file_second"}], deep]}
    assert list(keys_in(content)) == [("image", "img_first"), ("file", "file_second"), ("file", "file_last")]
