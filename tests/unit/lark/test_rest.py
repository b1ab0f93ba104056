import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channel.errors import (
    PlatformError,
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
)
from gateway.errors import LocalProtocolError
from gateway.lark.api import rest
from gateway.lark.api.rest import ApiAnswer, ApiRequest, TokenRejected
from gateway.lark.chat.cards import TEXT_REQUEST_BYTES_MAX, render_card, render_text

TOKEN = "t-fake-token"


def answer(status: int = 200, headers: dict[str, str] | None = None, **fields: Any) -> ApiAnswer:
    return ApiAnswer(status, json.dumps(fields).encode(), headers or {})


def send(**changes: Any) -> ApiRequest:
    text = changes.pop("text", "hi")
    fields = {"receive_id_type": "chat_id", "receive_id": "oc_1", "uuid": "u-1"} | changes
    return rest.send_request(TOKEN, message=render_text(text), **fields)


# Requests.


def test_token_request_carries_the_credentials_and_no_bearer() -> None:
    request = rest.tenant_token_request("cli_a", "fake-secret")
    assert (request.method, request.path) == ("POST", "/open-apis/auth/v3/tenant_access_token/internal")
    assert json.loads(request.body) == {"app_id": "cli_a", "app_secret": "fake-secret"}
    assert dict(request.headers) == {"content-type": "application/json; charset=utf-8"}


def test_bot_info_request_carries_the_bearer() -> None:
    request = rest.bot_info_request(TOKEN)
    assert (request.method, request.path, request.body) == ("GET", "/open-apis/bot/v3/info", b"")
    assert dict(request.headers) == {"authorization": f"Bearer {TOKEN}"}


def test_person_request_escapes_the_id() -> None:
    path = rest.person_request(TOKEN, "ou_a/../b?x").path
    assert path == "/open-apis/contact/v3/users/ou_a%2F..%2Fb%3Fx?user_id_type=open_id"


@pytest.mark.parametrize("text", ["hi", 'say "hi"\n\\ 你好 😀', "</script>\u2028"])
def test_send_request_encodes_the_content_twice(text: str) -> None:
    request = send(text=text)
    assert (request.method, request.path) == ("POST", "/open-apis/im/v1/messages?receive_id_type=chat_id")
    body = json.loads(request.body)
    content = body.pop("content")
    assert body == {"receive_id": "oc_1", "msg_type": "text", "uuid": "u-1"}
    assert isinstance(content, str)
    assert json.loads(content) == {"text": text}


def test_send_request_to_a_person_names_the_id_type() -> None:
    assert send(receive_id_type="open_id", receive_id="ou_1").path.endswith("?receive_id_type=open_id")


@pytest.mark.parametrize("in_thread", [True, False])
def test_reply_request_quotes_the_message_in_its_path(in_thread: bool) -> None:
    request = rest.reply_request(TOKEN, message_id="om/1", message=render_text("hi"), uuid="u", in_thread=in_thread)
    assert request.path == "/open-apis/im/v1/messages/om%2F1/reply"
    assert json.loads(request.body) == {
        "msg_type": "text",
        "content": '{"text":"hi"}',
        "uuid": "u",
        "reply_in_thread": in_thread,
    }


def test_react_request_names_the_emoji() -> None:
    request = rest.react_request(TOKEN, message_id="om/1", emoji_type="Typing")
    assert (request.method, request.path) == ("POST", "/open-apis/im/v1/messages/om%2F1/reactions")
    assert json.loads(request.body) == {"reaction_type": {"emoji_type": "Typing"}}


def test_unreact_request_names_the_reaction_and_has_no_body() -> None:
    request = rest.unreact_request(TOKEN, message_id="om_1", reaction_id="re?1")
    assert (request.method, request.path) == ("DELETE", "/open-apis/im/v1/messages/om_1/reactions/re%3F1")
    assert (request.body, dict(request.headers)) == (b"", {"authorization": f"Bearer {TOKEN}"})


@pytest.mark.parametrize(
    "build",
    [
        lambda: rest.react_request(TOKEN, message_id="", emoji_type="Typing"),
        lambda: rest.react_request(TOKEN, message_id="om_1", emoji_type=""),
        lambda: rest.unreact_request(TOKEN, message_id="", reaction_id="re_1"),
        lambda: rest.unreact_request(TOKEN, message_id="om_1", reaction_id=" "),
        lambda: rest.tenant_token_request("", "fake-secret"),
        lambda: rest.tenant_token_request("cli_a", " "),
        lambda: rest.person_request(TOKEN, ""),
        lambda: send(receive_id=""),
        lambda: send(text=""),
        lambda: send(text=" \n"),
        lambda: send(uuid=""),
        lambda: send(uuid="u" * 51),
        lambda: rest.reply_request(TOKEN, message_id="", message=render_text("hi"), uuid="u", in_thread=False),
        lambda: rest.reply_request(TOKEN, message_id="om_1", message=render_text(""), uuid="u", in_thread=False),
    ],
)
def test_request_with_bad_input_is_a_local_error(build: Callable[[], ApiRequest]) -> None:
    with pytest.raises(LocalProtocolError):
        build()


def test_send_request_takes_a_uuid_of_fifty_characters() -> None:
    assert json.loads(send(uuid="u" * 50).body)["uuid"] == "u" * 50


def test_send_request_over_the_size_limit_is_refused_with_the_platforms_code() -> None:
    send(text="x" * (TEXT_REQUEST_BYTES_MAX - 100))
    with pytest.raises(PlatformRefused, match="153600") as raised:
        send(text="x" + "\n" * 60_000)
    assert raised.value.code == 230025


def test_card_over_its_own_size_limit_is_refused_too() -> None:
    card = render_card("x" * 31_000)
    with pytest.raises(PlatformRefused, match="30720"):
        rest.send_request(TOKEN, receive_id_type="chat_id", receive_id="oc_1", message=card, uuid="u")


def test_request_and_answer_repr_hide_what_is_secret() -> None:
    shown = repr(rest.tenant_token_request("cli_a", "fake-secret")) + repr(rest.bot_info_request(TOKEN))
    shown += repr(answer(tenant_access_token=TOKEN)) + repr(rest.TenantToken(TOKEN, 1))
    assert "fake-secret" not in shown
    assert TOKEN not in shown


# Answers.


def test_judge_of_a_success_returns_the_body() -> None:
    assert rest.judge(answer(code=0, msg="ok", data={"x": 1}))["data"] == {"x": 1}


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 500])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (99991663, TokenRejected),
        (99991664, TokenRejected),
        (99991671, TokenRejected),
        (99991400, PlatformThrottled),
        (230020, PlatformThrottled),
        (10003, PlatformUnauthorized),
        (10014, PlatformUnauthorized),
        (99991543, PlatformUnauthorized),
        (99991662, PlatformUnauthorized),
        (99991673, PlatformUnauthorized),
        (230049, PlatformUnavailable),
        (230101, PlatformUnavailable),
    ],
)
def test_judge_reads_the_code_whatever_the_status(status: int, code: int, error: type[PlatformError]) -> None:
    with pytest.raises(error) as raised:
        rest.judge(answer(status, code=code, msg="no", error={"log_id": "log-7"}))
    assert (raised.value.code, raised.value.log_id) == (code, "log-7")
    assert type(raised.value) is error


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404])
@pytest.mark.parametrize("code", [230001, 230002, 230022, 99991672, 1, -1])
def test_judge_of_another_code_is_a_refusal(status: int, code: int) -> None:
    with pytest.raises(PlatformRefused, match=rf"{code}.*no way") as raised:
        rest.judge(answer(status, {"x-tt-logid": "log-8"}, code=code, msg="no way"))
    assert (raised.value.code, raised.value.log_id) == (code, "log-8")


@pytest.mark.parametrize("code", [0, 1, 230001])
def test_judge_of_a_server_error_with_another_code_is_unavailable(code: int) -> None:
    with pytest.raises(PlatformUnavailable):
        rest.judge(answer(502, code=code))


def test_judge_of_a_failure_status_with_code_zero_is_no_success() -> None:
    with pytest.raises(PlatformRefused):
        rest.judge(answer(404, code=0))


@pytest.mark.parametrize(
    "body", [b"", b"<html>502</html>", b"[]", b"{}", b'{"code":"0"}', b'{"code":true}', b"[" * 99_999]
)
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, PlatformUnavailable),
        (502, PlatformUnavailable),
        (200, PlatformUnavailable),
        (302, PlatformUnavailable),
        (408, PlatformUnavailable),
        (404, PlatformRefused),
        (429, PlatformThrottled),
    ],
)
def test_judge_of_a_body_that_is_not_the_platforms_goes_by_the_status(
    body: bytes, status: int, error: type[PlatformError]
) -> None:
    with pytest.raises(error) as raised:
        rest.judge(ApiAnswer(status, body))
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.5", 0.5), ("600", 60), ("0", 1), ("-3", 1), ("soon", 1), ("inf", 1), ("nan", 1), (None, 1)],
)
@pytest.mark.parametrize(("status", "code"), [(429, 99991400), (400, 99991400), (200, 230020), (429, 5)])
def test_judge_of_a_throttle_says_how_long_to_wait(header: str | None, seconds: float, status: int, code: int) -> None:
    headers = {} if header is None else {"x-ogw-ratelimit-reset": header}
    with pytest.raises(PlatformThrottled) as raised:
        rest.judge(answer(status, headers, code=code))
    assert raised.value.retry_after == seconds


def test_judge_keeps_a_long_reason_short() -> None:
    with pytest.raises(PlatformRefused) as raised:
        rest.judge(answer(code=5, msg="x" * 10_000))
    assert len(str(raised.value)) < 400


@given(st.integers(100, 599), st.binary(max_size=200))
def test_judge_of_anything_succeeds_or_raises_a_lark_error(status: int, body: bytes) -> None:
    try:
        rest.judge(ApiAnswer(status, body))
    except PlatformError:
        pass
    else:
        assert status // 100 == 2


def test_judge_tenant_token_reads_the_top_level() -> None:
    token = rest.judge_tenant_token(answer(code=0, msg="ok", tenant_access_token=TOKEN, expire=7200))
    assert (token.value, token.lifetime_seconds) == (TOKEN, 7200)


@pytest.mark.parametrize("expire", [None, "7200", []])
def test_judge_tenant_token_with_an_odd_lifetime_has_none(expire: object) -> None:
    assert rest.judge_tenant_token(answer(code=0, tenant_access_token=TOKEN, expire=expire)).lifetime_seconds == 0


@pytest.mark.parametrize("token", [None, "", 7, "t-fake\r\nx: y", "t fake", "tökén"])
def test_judge_tenant_token_that_cannot_stand_in_a_header_is_unavailable(token: object) -> None:
    with pytest.raises(PlatformUnavailable) as raised:
        rest.judge_tenant_token(answer(code=0, tenant_access_token=token, expire=7200))
    assert "fake" not in str(raised.value)


def test_judge_bot_info_reads_the_top_level() -> None:
    info = rest.judge_bot_info(answer(code=0, bot={"open_id": "ou_bot", "app_name": "Ada"}))
    assert (info.open_id, info.app_name) == ("ou_bot", "Ada")


@pytest.mark.parametrize("bot", [None, [], {}, {"open_id": ""}, {"open_id": 7}])
def test_judge_bot_info_without_an_open_id_is_unavailable(bot: object) -> None:
    with pytest.raises(PlatformUnavailable):
        rest.judge_bot_info(answer(code=0, bot=bot))


@pytest.mark.parametrize(
    ("data", "union_id"),
    [
        ({"user": {"union_id": "on_1"}}, "on_1"),
        ({"user": {}}, ""),
        ({}, ""),
        (None, ""),
        ({"user": {"union_id": 7}}, ""),
    ],
)
def test_judge_union_id_is_empty_when_it_is_not_shown(data: object, union_id: str) -> None:
    assert rest.judge_union_id(answer(code=0, data=data)) == union_id


def test_judge_sent_returns_the_message_id() -> None:
    assert rest.judge_sent(answer(code=0, data={"message_id": "om_1"})) == "om_1"


@pytest.mark.parametrize("data", [None, {}, {"message_id": ""}, {"message_id": 7}, []])
def test_judge_sent_without_an_id_is_an_unknown_result(data: object) -> None:
    with pytest.raises(PlatformUnavailable):
        rest.judge_sent(answer(code=0, data=data))


@pytest.mark.parametrize(
    ("status", "fields"), [(400, {"code": 99991000, "msg": "no"}), (404, {"code": 7, "msg": "no"})]
)
def test_judge_tenant_token_of_a_refusal_is_about_the_app_and_not_the_call(
    status: int, fields: dict[str, object]
) -> None:
    """PlatformRefused would end the message for whose sake the token was fetched."""
    with pytest.raises(PlatformUnauthorized) as raised:
        rest.judge_tenant_token(answer(status, **fields))
    assert raised.value.code == fields["code"]


def test_judge_tenant_token_of_a_proxys_refusal_says_nothing_about_the_app() -> None:
    with pytest.raises(PlatformUnavailable):
        rest.judge_tenant_token(ApiAnswer(403, b"<html>not from here</html>"))


def test_reaction_is_named_by_the_answer() -> None:
    assert rest.judge_reacted(answer(code=0, data={"reaction_id": "re_1"})) == "re_1"
    rest.judge_unreacted(answer(code=0, data={}))


@pytest.mark.parametrize("data", [None, {}, {"reaction_id": ""}, {"reaction_id": 7}])
def test_reaction_without_a_name_leaves_the_result_open(data: Any) -> None:
    with pytest.raises(PlatformUnavailable):
        rest.judge_reacted(answer(code=0, data=data))


def test_reaction_that_is_refused_is_an_error_of_the_family() -> None:
    with pytest.raises(PlatformRefused):
        rest.judge_reacted(answer(400, code=231001, msg="reaction type is invalid."))
    with pytest.raises(PlatformThrottled):
        rest.judge_unreacted(answer(429, code=99991400, msg="too many"))
