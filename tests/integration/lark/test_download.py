"""Files of messages, over a real socket: whole, torn, lying about their length, and errors that look like files."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

import pytest
import trio

from gateway.channel.errors import (
    PlatformError,
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
)
from gateway.core.attachments import FetchProblem
from gateway.errors import GatewayError, LocalProtocolError, StoreUnavailable
from gateway.lark.api.client import LarkClient, open_http_client
from gateway.lark.chat.resources import LarkFiles
from gateway.work.tasks.attachments import FetchFailed, StoredAttachment
from support.file_peer import FilePeer, answer, chunked, hang, saying, serving_files

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100_000)
TOKEN_EXPIRED = json.dumps({"code": 99991663, "msg": "Invalid access token"}).encode()


@dataclass
class Sink:
    """Keeps what comes, up to `limit` bytes."""

    limit: int = 10_000_000
    body: bytes = b""
    began: list[tuple[str, str, int | None]] = field(default_factory=list)

    def begin(self, *, content_type: str, disposition: str, length: int | None) -> None:
        self.began.append((content_type, disposition, length))
        if (length or 0) > self.limit:
            raise FetchFailed(FetchProblem.TOO_LARGE, "announced")

    async def write(self, chunk: bytes) -> None:
        self.body += chunk
        if len(self.body) > self.limit:
            raise FetchFailed(FetchProblem.TOO_LARGE, "came")


@asynccontextmanager
async def client_of(peer: FilePeer) -> AsyncIterator[LarkClient]:
    """Whatever is left to the garbage collector would make a warning, which is an error here."""
    with trio.fail_after(20):
        async with open_http_client() as http:
            yield LarkClient("cli_a", "fake-app-secret", peer.base_url, http)
        gc.collect()


async def download(client: LarkClient, sink: Sink, *, timeout: float = 10) -> None:
    await client.download(message_id="om_1", key="img_1", resource_type="image", sink=sink, timeout=timeout)


async def fetched(*scripts: bytes) -> tuple[FilePeer, Sink]:
    async with serving_files(*map(saying, scripts)) as peer, client_of(peer) as client:
        sink = Sink()
        await download(client, sink)
        return peer, sink


async def test_file_arrives_whole_with_what_its_headers_say() -> None:
    disposition = 'Content-Disposition: attachment; filename="cat.png"\r\n'
    peer, sink = await fetched(answer(PNG, content_type="image/png", extra=disposition))
    assert sink.body == PNG
    assert sink.began == [("image/png", 'attachment; filename="cat.png"', len(PNG))]
    assert peer.requests == ["GET /open-apis/im/v1/messages/om_1/resources/img_1?type=image HTTP/1.1"]


async def test_file_of_unknown_length_arrives_whole() -> None:
    _, sink = await fetched(chunked(PNG, PNG))
    assert sink.body == PNG + PNG
    assert sink.began == [("image/png", "", None)]


async def test_empty_file_is_a_file() -> None:
    _, sink = await fetched(answer(b"", content_type="image/png"))
    assert (sink.body, len(sink.began)) == (b"", 1)


@pytest.mark.parametrize(
    ("body", "extra"),
    [
        (b'{"name": "ada"}', ""),
        (b"[1, 2, 3]", ""),
        (b'{"code": 0, "msg": "ok"}', ""),
        (b'{"code": "E42", "msg": "text"}', ""),
        (b'{"code": 42}', ""),
        (b"{not json", ""),
        (b"", ""),
        (b'{"code": 42, "msg": "x"}', "Content-Disposition: attachment; filename=errors.json\r\n"),
        (json.dumps({"code": 1, "msg": "x" * 70_000}).encode(), ""),
    ],
)
async def test_json_that_is_no_error_of_the_platform_is_a_file(body: bytes, extra: str) -> None:
    _, sink = await fetched(answer(body, extra=extra))
    assert sink.body == body
    assert sink.began[0][0] == "application/json"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (200, 234003, PlatformRefused),
        (400, 230002, PlatformRefused),
        (403, 99991672, PlatformRefused),
        (400, 99991543, PlatformUnauthorized),
        (200, 99991400, PlatformThrottled),
        (429, 99991400, PlatformThrottled),
        (500, 2200, PlatformUnavailable),
        (206, 0, PlatformUnavailable),
    ],
)
async def test_error_in_place_of_a_file_is_raised(status: int, code: int, kind: type[PlatformError]) -> None:
    body = json.dumps({"code": code, "msg": "no"}).encode()
    async with serving_files(saying(answer(body, status=status))) as peer, client_of(peer) as client:
        sink = Sink()
        with pytest.raises(kind) as refused:
            await download(client, sink)
        assert refused.value.code == code
        assert sink.began == []


@pytest.mark.parametrize(
    ("status", "kind"), [(404, PlatformRefused), (502, PlatformUnavailable), (204, PlatformUnavailable)]
)
async def test_status_without_the_platforms_words_is_judged_by_itself(status: int, kind: type[PlatformError]) -> None:
    body = b"" if status == 204 else b"<html>" + bytes(100_000)
    page = answer(body, status=status, content_type="text/html")
    async with serving_files(saying(page)) as peer, client_of(peer) as client:
        with pytest.raises(kind):
            await download(client, Sink())


async def test_expired_token_is_renewed_once_and_the_file_arrives() -> None:
    peer, sink = await fetched(answer(TOKEN_EXPIRED, status=400), answer(PNG, content_type="image/png"))
    assert (peer.tokens, len(peer.requests), sink.body) == (2, 2, PNG)


async def test_token_error_with_status_200_is_one_as_well() -> None:
    peer, sink = await fetched(answer(TOKEN_EXPIRED), answer(PNG, content_type="image/png"))
    assert (peer.tokens, sink.body) == (2, PNG)


@pytest.mark.parametrize(
    "torn",
    [
        answer(PNG, content_type="image/png", length=len(PNG) + 1),
        chunked(PNG, end=False),
        b"HTTP/1.1 200 X\r\nCont",
        b"",
    ],
    ids=["short", "no last chunk", "half a head", "nothing"],
)
async def test_torn_answer_is_no_file(torn: bytes) -> None:
    async with serving_files(saying(torn)) as peer, client_of(peer) as client:
        with pytest.raises(PlatformUnavailable):
            await download(client, Sink())


async def test_compressed_answer_is_refused() -> None:
    packed = answer(b"xx", content_type="image/png", extra="Content-Encoding: gzip\r\n")
    async with serving_files(saying(packed)) as peer, client_of(peer) as client:
        with pytest.raises(PlatformUnavailable, match="gzip"):
            await download(client, Sink())


async def test_file_that_stalls_ends_with_its_time() -> None:
    async with serving_files(hang) as peer, client_of(peer) as client:
        with pytest.raises(PlatformUnavailable, match="did not arrive"):
            await download(client, Sink(), timeout=0.3)


async def test_announced_length_above_the_limit_ends_the_download_before_its_body() -> None:
    async with serving_files(hang) as peer, client_of(peer) as client:
        with pytest.raises(FetchFailed, match="announced"):
            await download(client, Sink(limit=99))


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 X\r\nContent-Type: image/png\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Type: image/png\r\nContent-Length: 99999999999\r\n\r\n",
    ],
    ids=["no length", "a length"],
)
async def test_stream_above_the_limit_is_left_in_the_middle(head: bytes) -> None:
    async with serving_files() as peer, client_of(peer) as client:
        peer.scripts = [partial(peer.stream_forever, head=head)]
        with pytest.raises(FetchFailed):
            await download(client, Sink(limit=1_000_000))
        await peer.left.wait()
        assert peer.sent < 50_000_000


async def test_cancelled_download_leaves_the_client_usable() -> None:
    async with serving_files(hang, saying(answer(PNG, content_type="image/png"))) as peer, client_of(peer) as client:
        with trio.move_on_after(0.2):
            await download(client, Sink())
        sink = Sink()
        await download(client, sink)
        assert sink.body == PNG


@pytest.mark.parametrize(("message_id", "key"), [("", "img_1"), ("om_1", " ")])
async def test_blank_handle_is_refused_without_a_call(message_id: str, key: str) -> None:
    async with serving_files() as peer, client_of(peer) as client:
        with pytest.raises(LocalProtocolError):
            await client.download(message_id=message_id, key=key, resource_type="file", sink=Sink())
        assert peer.tokens == 0


async def test_handle_cannot_leave_its_place_in_the_path() -> None:
    async with serving_files(saying(answer(PNG, content_type="image/png"))) as peer, client_of(peer) as client:
        await client.download(message_id="om/../1", key="a/b?c#d\r\n e", resource_type="file", sink=Sink())
        assert peer.requests == [
            "GET /open-apis/im/v1/messages/om%2F..%2F1/resources/a%2Fb%3Fc%23d%0D%0A%20e?type=file HTTP/1.1"
        ]


# As a source of files.


def wanted(kind: str = "image") -> StoredAttachment:
    return StoredAttachment(uuid4(), uuid4(), 1, uuid4(), "om_1", "key_1", kind, "", "", None, "pending", None)


@pytest.mark.parametrize(
    ("status", "code", "problem", "transient"),
    [
        (400, 230110, FetchProblem.NOT_AVAILABLE, False),
        (400, 234043, FetchProblem.NOT_AVAILABLE, False),
        (400, 99991672, FetchProblem.REFUSED, False),
        (429, 99991400, FetchProblem.UNAVAILABLE, True),
        (500, 1, FetchProblem.UNAVAILABLE, True),
        (400, 234037, FetchProblem.TOO_LARGE, False),
    ],
)
async def test_platforms_no_is_a_problem_of_the_file(
    status: int, code: int, problem: FetchProblem, transient: bool
) -> None:
    body = answer(json.dumps({"code": code, "msg": "no"}).encode(), status=status)
    async with serving_files(saying(body)) as peer, client_of(peer) as client:

        async def client_for(_: object) -> LarkClient:
            return client

        with pytest.raises(FetchFailed) as failed:
            await LarkFiles(client_for).download(wanted(), Sink())
        assert (failed.value.problem, failed.value.transient) == (problem, transient)


@pytest.mark.parametrize(
    ("kind", "asked"), [("image", "image"), ("file", "file"), ("audio", "file"), ("video", "file")]
)
async def test_platform_is_asked_for_one_of_its_two_types(kind: str, asked: str) -> None:
    async with serving_files(saying(answer(PNG, content_type="image/png"))) as peer, client_of(peer) as client:

        async def client_for(_: object) -> LarkClient:
            return client

        await LarkFiles(client_for).download(wanted(kind), Sink())
        assert peer.requests[0].endswith(f"?type={asked} HTTP/1.1")


@pytest.mark.parametrize(
    ("error", "problem", "transient"),
    [
        (GatewayError("revoked"), FetchProblem.BOT_UNAVAILABLE, False),
        (StoreUnavailable("away"), FetchProblem.UNAVAILABLE, True),
    ],
)
async def test_bot_that_cannot_be_used_is_a_problem_of_the_file(
    error: GatewayError, problem: FetchProblem, transient: bool
) -> None:
    async def client_for(_: object) -> LarkClient:
        raise error

    with pytest.raises(FetchFailed) as failed:
        await LarkFiles(client_for).download(wanted(), Sink())
    assert (failed.value.problem, failed.value.transient) == (problem, transient)
