import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
import structlog
import trio

from gateway.channel.errors import (
    PlatformError,
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
    PlatformUnreachable,
)
from gateway.errors import LocalProtocolError
from gateway.lark.api import client as client_module
from gateway.lark.api.client import LarkClient, open_http_client
from gateway.lark.api.rest import TokenRejected
from gateway.lark.chat.cards import render_text
from support.lark_rest import (
    BOT_PATH,
    ENDPOINT_PATH,
    SEND_PATH,
    TOKEN_PATH,
    Call,
    FakePlatform,
    Reply,
    serving_platform,
)

SECRET = "fake-app-secret"


@pytest.fixture
async def platform() -> AsyncIterator[FakePlatform]:
    with trio.fail_after(30):
        async with serving_platform() as platform:
            yield platform


@pytest.fixture
async def client(platform: FakePlatform) -> AsyncIterator[LarkClient]:
    async with open_http_client() as http:
        yield LarkClient("cli_a", SECRET, platform.base_url, http)


def expired(code: int = 99991663, status: int = 400) -> Reply:
    return Reply({"code": code, "msg": "Invalid access token"}, status=status)


async def test_send_fetches_a_token_and_sends(platform: FakePlatform, client: LarkClient) -> None:
    message_id = await client.send(render_text("hi"), uuid="u-1", chat_id="oc_1")
    asked = [(call.method, call.path, call.query) for call in platform.calls]
    assert asked == [("POST", TOKEN_PATH, ""), ("POST", SEND_PATH, "receive_id_type=chat_id")]
    assert platform.calls[0].json == {"app_id": "cli_a", "app_secret": SECRET}
    assert platform.calls[1].bearer == "t-fake-1"
    assert platform.calls[1].json == {
        "receive_id": "oc_1",
        "msg_type": "text",
        "content": '{"text":"hi"}',
        "uuid": "u-1",
    }
    assert message_id.startswith("om_")


async def test_send_to_a_person_and_as_a_reply(platform: FakePlatform, client: LarkClient) -> None:
    await client.send(render_text("hi"), uuid="u-1", open_id="ou_1")
    await client.send(render_text("hi"), uuid="u-2", chat_id="oc_1", reply_to="om_9", in_thread=True)
    person, reply = platform.calls[1:]
    assert (person.query, person.json["receive_id"]) == ("receive_id_type=open_id", "ou_1")
    assert (reply.path, reply.json["reply_in_thread"]) == (f"{SEND_PATH}/om_9/reply", True)


@pytest.mark.parametrize(
    "bad", [{"text": ""}, {"uuid": "u" * 51}, {"uuid": ""}, {"chat_id": ""}, {"text": "x" * 200_000}]
)
async def test_send_with_bad_input_calls_nothing(
    platform: FakePlatform, client: LarkClient, bad: dict[str, str]
) -> None:
    with pytest.raises((LocalProtocolError, PlatformRefused)):
        fields = {"text": "hi", "uuid": "u-1", "chat_id": "oc_1"} | bad
        await client.send(render_text(fields.pop("text")), **fields)
    assert platform.calls == []


async def test_client_without_credentials_calls_nothing(platform: FakePlatform) -> None:
    async with open_http_client() as http:
        with pytest.raises(LocalProtocolError):
            await LarkClient("cli_a", "", platform.base_url, http).bot_info()
    assert platform.calls == []


async def test_token_is_fetched_once_for_concurrent_calls(platform: FakePlatform, client: LarkClient) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(client.bot_info)
    assert len(platform.asked(TOKEN_PATH)) == 1
    assert len(platform.asked(BOT_PATH)) == 10


@pytest.mark.parametrize(("code", "status"), [(99991663, 400), (99991664, 401), (99991671, 200)])
async def test_rejected_token_is_dropped_and_the_call_repeated_once(
    platform: FakePlatform, client: LarkClient, code: int, status: int
) -> None:
    platform.script(SEND_PATH, expired(code, status))
    await client.send(render_text("hi"), uuid="u-1", chat_id="oc_1")
    first, second = platform.asked(SEND_PATH)
    assert (first.bearer, second.bearer) == ("t-fake-1", "t-fake-2")
    assert first.json == second.json
    await client.bot_info()
    assert len(platform.asked(TOKEN_PATH)) == 2


async def test_token_rejected_twice_is_a_retryable_error_and_dropped(
    platform: FakePlatform, client: LarkClient
) -> None:
    platform.script(BOT_PATH, expired(), expired())
    with pytest.raises(TokenRejected):
        await client.bot_info()
    await client.bot_info()
    assert [call.bearer for call in platform.asked(BOT_PATH)] == ["t-fake-1", "t-fake-2", "t-fake-3"]


async def test_late_rejection_of_an_old_token_keeps_the_fresh_one(platform: FakePlatform, client: LarkClient) -> None:
    stalled, proceed = trio.Event(), trio.Event()

    async def reject_late(_call: Call) -> Reply:
        stalled.set()
        await proceed.wait()
        return expired()

    platform.script(BOT_PATH, reject_late, expired())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.bot_info)
        await stalled.wait()
        await client.bot_info()
        proceed.set()
    assert len(platform.asked(TOKEN_PATH)) == 2


@pytest.mark.parametrize("code", [10003, 10014, 99991543, 99991662, 99991673])
async def test_wrong_credentials_are_unauthorized(platform: FakePlatform, client: LarkClient, code: int) -> None:
    platform.script(TOKEN_PATH, Reply({"code": code, "msg": "app secret invalid"}))
    with pytest.raises(PlatformUnauthorized) as raised:
        await client.bot_info()
    assert raised.value.code == code
    await client.bot_info()


async def test_throttle_says_how_long_to_wait(platform: FakePlatform, client: LarkClient) -> None:
    headers = {"X-Ogw-Ratelimit-Reset": "3"}
    platform.script(SEND_PATH, Reply({"code": 99991400, "msg": "too many"}, status=429, headers=headers))
    with pytest.raises(PlatformThrottled) as raised:
        await client.send(render_text("hi"), uuid="u-1", chat_id="oc_1")
    assert raised.value.retry_after == 3


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=502, raw=b"<html>bad gateway</html>"), PlatformUnavailable),
        (Reply(status=200, raw=b"<html>log in</html>"), PlatformUnavailable),
        (Reply(status=302, raw=b"", headers={"location": "http://127.0.0.1:9/elsewhere"}), PlatformUnavailable),
        (Reply(status=403, raw=b"<html>not from here</html>"), PlatformRefused),
        (Reply({"code": 230002, "msg": "bot not in chat"}, status=400), PlatformRefused),
        (Reply(close=True), PlatformUnavailable),
        (Reply(raw=b"x" * (client_module.ANSWER_BYTES_MAX + 1)), PlatformUnavailable),
        (Reply(raw=b"gzip", headers={"content-encoding": "gzip"}), PlatformUnavailable),
    ],
)
async def test_other_answers_become_lark_errors(
    platform: FakePlatform, client: LarkClient, reply: Reply, error: type[PlatformError]
) -> None:
    platform.script(SEND_PATH, reply)
    with pytest.raises(error) as raised:
        await client.send(render_text("hi"), uuid="u-1", chat_id="oc_1")
    assert type(raised.value) is error
    assert len(platform.asked(SEND_PATH)) == 1


async def test_nobody_listening_means_that_nothing_was_done() -> None:
    async with open_http_client() as http:
        with pytest.raises(PlatformUnreachable, match=r"127\.0\.0\.1:9"):
            await LarkClient("cli_a", SECRET, "http://127.0.0.1:9", http).bot_info()


@pytest.mark.parametrize("base_url", ["ftp://127.0.0.1", "nonsense", "http://[", "http://127.0.0.1:99999"])
async def test_impossible_base_url_is_unavailable(base_url: str) -> None:
    async with open_http_client() as http:
        with pytest.raises(PlatformUnavailable):
            await LarkClient("cli_a", SECRET, base_url, http).bot_info()


@pytest.mark.parametrize("reply", [Reply(close=True), Reply(status=502, raw=b"<html>bad gateway</html>")])
async def test_message_without_a_token_never_left(platform: FakePlatform, client: LarkClient, reply: Reply) -> None:
    platform.script(TOKEN_PATH, reply)
    with pytest.raises(PlatformUnreachable):
        await client.send(render_text("hi"), uuid="u-1", chat_id="oc_1")
    assert platform.asked(SEND_PATH) == []


async def test_silent_platform_is_unavailable_within_the_send_timeout(platform: FakePlatform) -> None:
    async def hang(_call: Call) -> Reply:
        await trio.sleep_forever()
        raise AssertionError

    platform.script(SEND_PATH, hang)
    async with open_http_client() as http:
        client = LarkClient("cli_a", SECRET, platform.base_url, http, send_timeout_seconds=0.3)
        with trio.fail_after(5), pytest.raises(PlatformUnavailable, match="not answered within"):
            await client.send(render_text("hi"), uuid="u-1", chat_id="oc_1")
        await client.send(render_text("hi"), uuid="u-1", chat_id="oc_1")


async def test_cancelled_token_fetch_leaves_the_client_usable(platform: FakePlatform, client: LarkClient) -> None:
    asked = trio.Event()

    async def hang(_call: Call) -> Reply:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    platform.script(TOKEN_PATH, hang)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.bot_info)
        await asked.wait()
        nursery.cancel_scope.cancel()
    assert (await client.bot_info()).open_id == "ou_bot"


async def test_fetch_endpoint_posts_the_credentials_without_a_token(platform: FakePlatform, client: LarkClient) -> None:
    endpoint = await client.fetch_endpoint()
    (call,) = platform.calls
    assert (call.method, call.path) == ("POST", ENDPOINT_PATH)
    assert call.json == {"AppID": "cli_a", "AppSecret": SECRET}
    assert call.headers["locale"] == "zh"
    assert "authorization" not in call.headers
    assert endpoint.service_id == 7
    assert "fake-ticket" not in repr(endpoint)


async def test_fetch_endpoint_tells_a_refusal_from_an_outage(platform: FakePlatform, client: LarkClient) -> None:
    platform.script(ENDPOINT_PATH, Reply({"code": 514, "msg": "auth failed"}), Reply(status=502, raw=b"<html>"))
    with pytest.raises(PlatformRefused) as refused:
        await client.fetch_endpoint()
    assert refused.value.code == 514
    with pytest.raises(PlatformUnavailable):
        await client.fetch_endpoint()


async def test_identify_returns_both_ids(client: LarkClient) -> None:
    bot = await client.identify()
    assert (bot.open_id, bot.union_id) == ("ou_bot", "on_bot")


async def test_identify_without_the_contact_scope_lacks_the_union_id(
    platform: FakePlatform, client: LarkClient
) -> None:
    platform.script("/open-apis/contact/v3/users/ou_bot", Reply({"code": 99991672, "msg": "no scope"}, status=400))
    bot = await client.identify()
    assert (bot.open_id, bot.union_id) == ("ou_bot", "")


async def test_no_secret_reaches_a_log_or_an_error(
    platform: FakePlatform, client: LarkClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    errors: list[PlatformError] = []
    failures = (Reply(close=True), Reply({"code": 5, "msg": "no"}), expired(), Reply(status=500))
    with structlog.testing.capture_logs() as events:
        for path in (TOKEN_PATH, BOT_PATH, ENDPOINT_PATH):
            for failure in failures:
                platform.script(path, failure, failure)
                try:
                    await (client.fetch_endpoint() if path == ENDPOINT_PATH else client.bot_info())
                except PlatformError as error:
                    errors.append(error)
                platform.scripted.clear()
    assert len(errors) == 12
    shown = repr(client) + caplog.text + repr(events) + "".join(map(repr, errors)) + "".join(map(str, errors))
    for secret in (SECRET, "t-fake", "fake-ticket"):
        assert secret not in shown


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_loopback_is_never_proxied(
    platform: FakePlatform, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with open_http_client() as http:
        await LarkClient("cli_a", SECRET, platform.base_url, http).bot_info()
    async with open_http_client(proxy_url="http://127.0.0.1:9") as http:
        await LarkClient("cli_a", SECRET, platform.base_url, http).bot_info()


async def test_other_hosts_go_through_the_proxy(platform: FakePlatform) -> None:
    async with open_http_client(proxy_url=platform.base_url) as http:
        client = LarkClient("cli_a", SECRET, "http://open.feishu.invalid", http)
        with pytest.raises(PlatformUnauthorized):
            await client.bot_info()
    assert [call.path for call in platform.calls] == [f"http://open.feishu.invalid{TOKEN_PATH}"]


async def test_cookies_are_not_kept(platform: FakePlatform, client: LarkClient) -> None:
    bot = Reply({"code": 0, "bot": {"open_id": "ou_bot"}}, headers={"set-cookie": "session=fake-cookie; Path=/"})
    platform.script(BOT_PATH, bot)
    for _ in range(2):
        await client.bot_info()
    assert all("cookie" not in call.headers for call in platform.calls)
    assert platform.calls[0].headers["user-agent"].startswith("agent-gateway/")


async def test_http_client_uses_the_given_ssl_context(platform: FakePlatform) -> None:
    async with open_http_client(ssl_context=ssl.create_default_context()) as http:
        await LarkClient("cli_a", SECRET, platform.base_url, http).bot_info()


# Time, without sockets.


@asynccontextmanager
async def scripted_client(platform: FakePlatform) -> AsyncIterator[LarkClient]:
    async def answer(request: httpx2.Request) -> httpx2.Response:
        path, query = request.url.path, request.url.query.decode()
        call = Call(request.method, path, query, dict(request.headers), await request.aread())
        reply = await platform.answer(call)
        return httpx2.Response(reply.status, headers=reply.headers, stream=httpx2.ByteStream(reply.body))

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), timeout=None) as http:
        yield LarkClient("cli_a", SECRET, "http://platform.invalid", http)


@pytest.mark.parametrize(
    ("lifetime", "fresh_at", "stale_at"),
    [(7200, 7019, 7021), (600, 419, 421), (300, 149, 151), (60, 59, 61), (-5, 59, 61)],
)
async def test_token_is_fetched_again_shortly_before_it_ends(
    autojump_clock: trio.testing.MockClock, lifetime: int, fresh_at: float, stale_at: float
) -> None:
    platform = FakePlatform()
    platform.token_lifetime = lifetime
    with trio.fail_after(10_000):
        async with scripted_client(platform) as client:
            await client.bot_info()
            await trio.sleep(fresh_at)
            await client.bot_info()
            assert len(platform.asked(TOKEN_PATH)) == 1
            await trio.sleep(stale_at - fresh_at)
            await client.bot_info()
            assert len(platform.asked(TOKEN_PATH)) == 2


async def test_waiting_for_another_calls_token_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    platform = FakePlatform()

    async def hang(_call: Call) -> Reply:
        await trio.sleep_forever()
        raise AssertionError

    async def fail(client: LarkClient) -> None:
        with pytest.raises(PlatformUnavailable):
            await client.bot_info()

    platform.script(TOKEN_PATH, hang)
    with trio.fail_after(60):
        async with scripted_client(platform) as client, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fail, client)
    assert len(platform.asked(TOKEN_PATH)) <= 3
