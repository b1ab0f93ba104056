"""The device flow's rules, and the cases they were told in."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.errors import LocalProtocolError
from gateway.lark.api.region import Region
from gateway.lark.api.rest import ApiAnswer, ApiRequest
from gateway.lark.install.device_flow import (
    PATH,
    BegunRegistration,
    Granted,
    Moved,
    Pending,
    PollPace,
    PollResult,
    RegistrationEnded,
    RegistrationRefused,
    SlowDown,
    Unclear,
    begin_request,
    first_pace,
    is_over,
    judge_begin,
    judge_poll,
    name_preset,
    next_pace,
    poll_request,
    scan_url,
)

CASES: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "cases" / "registration.json").read_text(encoding="utf-8")
)
APP_ID = "cli_0123456789abcdef"
GRANT = {"client_id": APP_ID, "client_secret": "fake-secret", "user_info": {"open_id": "ou_eve"}}


def answer(body: object, status: int = 200) -> ApiAnswer:
    return ApiAnswer(status, body if isinstance(body, bytes) else json.dumps(body).encode())


def form(request: ApiRequest) -> dict[str, list[str]]:
    assert (request.method, request.path) == ("POST", PATH)
    assert dict(request.headers)["content-type"] == "application/x-www-form-urlencoded"
    return parse_qs(request.body.decode(), strict_parsing=True)


# --- asking whether somebody scanned ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES["rfc8628_poll"], ids=lambda case: case["name"])
def test_poll_cases(case: dict[str, Any]) -> None:
    given, expected = case["input"], case["expected"]
    if "device_code" in given:
        with pytest.raises(LocalProtocolError):
            poll_request(given["device_code"])
        return
    polled = Region(given.get("host", "feishu"))
    outcome = judge_poll(answer(given["body"], given["http"]), polled)
    if "terminal" in expected:
        assert outcome == RegistrationEnded(expected["terminal"])
    elif expected["switch_host"] is None:
        assert outcome == Pending()
    else:
        assert outcome == Moved(Region(expected["switch_region"]))


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (400, {"error": "authorization_pending", "code": 20094}, Pending()),
        (200, {"error": "authorization_pending"}, Pending()),
        (503, {"error": "authorization_pending"}, Pending()),
        (400, {"error": "slow_down"}, SlowDown()),
        (429, {"error": "slow_down"}, SlowDown()),
        (400, {"error": "access_denied"}, RegistrationEnded("access_denied")),
        (502, {"error": "expired_token"}, RegistrationEnded("expired_token")),
        (400, {"error": "invalid_grant"}, RegistrationEnded("invalid_grant")),
        (400, {"error": "invalid_client"}, RegistrationEnded("invalid_client")),
        (400, {"error": {"code": 7}}, RegistrationEnded("invalid_response")),
        (400, {"error": "no\nword" * 40}, RegistrationEnded("invalid_response")),
        (500, {"error": "server_error"}, Unclear("http_500")),
        (400, {"error": "server_error"}, Unclear("server_error")),
        (400, {"error": "temporarily_unavailable"}, Unclear("temporarily_unavailable")),
        (200, {"error": "temporarily_unavailable"}, Unclear("temporarily_unavailable")),
        (503, {"error": "temporarily_unavailable"}, Unclear("http_503")),
        (429, {"error": "rate_limited"}, Unclear("http_429")),
        (200, {}, Pending()),
        (400, {"error": ""}, Pending()),
        (200, {"client_id": APP_ID}, Pending()),
        (200, {"client_id": APP_ID, "client_secret": ""}, Pending()),
        (200, {"user_info": ["no object"]}, Pending()),
        (200, {"user_info": {"tenant_brand": "another"}}, Pending()),
        (503, {}, Unclear("http_503")),
        (502, b"<html>bad gateway</html>", Unclear("http_502")),
        (200, b"", Unclear("http_200")),
        (200, b"[]", Unclear("http_200")),
        (400, b"\xff\xfe", Unclear("http_400")),
        (200, b"[" * 100_000, Unclear("http_200")),
        (200, GRANT, Granted(APP_ID, "fake-secret", "ou_eve")),
        (400, GRANT, Granted(APP_ID, "fake-secret", "ou_eve")),
        (200, GRANT | {"user_info": {}}, RegistrationEnded("invalid_response")),
        (200, {"client_id": APP_ID, "client_secret": "fake-secret"}, RegistrationEnded("invalid_response")),
        (200, GRANT | {"client_id": "no app id"}, RegistrationEnded("invalid_response")),
        (200, GRANT | {"client_secret": "fake\0secret"}, RegistrationEnded("invalid_response")),
        (200, GRANT | {"client_id": "cli_1"}, Granted("cli_1", "fake-secret", "ou_eve")),
    ],
)
def test_poll_judges_the_body_before_the_status(status: int, body: object, outcome: PollResult) -> None:
    assert judge_poll(answer(body, status), Region.FEISHU) == outcome


@pytest.mark.parametrize(("polled", "brand"), [("feishu", "lark"), ("lark", "feishu")])
def test_poll_of_the_wrong_cloud_moves_before_it_takes_credentials(polled: str, brand: str) -> None:
    person = {"open_id": "ou_eve", "tenant_brand": brand}
    for body in (
        {"user_info": person},
        {"client_id": APP_ID, "client_secret": "", "user_info": person},
        GRANT | {"user_info": person},
    ):
        assert judge_poll(answer(body), Region(polled)) == Moved(Region(brand))


def test_poll_moves_once_and_then_takes_what_it_gets() -> None:
    person = {"open_id": "ou_eve", "tenant_brand": "feishu"}
    assert judge_poll(answer(GRANT | {"user_info": person}), Region.LARK, moved=True) == Granted(
        APP_ID, "fake-secret", "ou_eve"
    )
    assert judge_poll(answer({"user_info": person}), Region.LARK, moved=True) == Pending()


def test_poll_request_is_a_form() -> None:
    assert form(poll_request("dc/1 +&")) == {"action": ["poll"], "device_code": ["dc/1 +&"]}


def test_secrets_do_not_show_in_representations() -> None:
    shown = repr(
        (poll_request("fake-device-code"), Granted(APP_ID, "fake-secret", "ou_eve"), BegunRegistration("fake-dc", "u"))
    )
    assert "fake-device" not in shown
    assert "fake-secret" not in shown
    assert "fake-dc" not in shown


# --- when to ask again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "interval", "left", "pace"),
    [
        (Pending(), 5, 600, PollPace(5, 5)),
        (Pending(), 5, 2, PollPace(5, 2)),
        (Pending(), 5, -1, PollPace(5, 0)),
        (SlowDown(), 5, 600, PollPace(10, 10)),
        (SlowDown(), 58, 600, PollPace(60, 60)),
        (Unclear("http_502"), 5, 600, PollPace(5, 5)),
        (Moved(Region.LARK), 10, 600, PollPace(10, 0)),
    ],
)
def test_next_pace(outcome: PollResult, interval: float, left: float, pace: PollPace) -> None:
    assert next_pace(outcome, interval, left) == pace


def test_first_poll_waits_one_interval_and_never_beyond_the_deadline() -> None:
    assert first_pace(BegunRegistration("dc", "u", 5, 600)) == PollPace(5, 5)
    assert first_pace(BegunRegistration("dc", "u", 5, 3)) == PollPace(5, 3)


@pytest.mark.parametrize(("left", "over"), [(1, False), (0, True), (-1, True)])
def test_is_over_at_the_deadline(left: float, over: bool) -> None:
    assert is_over(left) is over


# --- beginning --------------------------------------------------------------------------------------------------------

BEGUN = {"device_code": "fake-dc", "verification_uri_complete": "https://accounts.feishu.cn/verify?user_code=AB"}


def test_begin_request_asks_for_a_personal_agent() -> None:
    assert form(begin_request()) == {
        "action": ["begin"],
        "archetype": ["PersonalAgent"],
        "auth_method": ["client_secret"],
        "request_user_info": ["open_id"],
    }


@pytest.mark.parametrize(
    ("fields", "interval", "lifetime"),
    [
        ({}, 5, 600),
        ({"interval": 3, "expires_in": 300}, 3, 300),
        ({"expire_in": 120}, 5, 120),
        ({"expires_in": 300, "expire_in": 120}, 5, 300),
        ({"expires_in": 0, "expire_in": 120, "interval": 0}, 5, 120),
        ({"expires_in": "soon", "interval": None}, 5, 600),
        ({"expires_in": -1, "interval": True}, 5, 600),
        ({"expires_in": 10**9, "interval": 10**9}, 60, 3600),
    ],
)
def test_begin_reads_both_spellings_of_the_lifetime(fields: dict[str, Any], interval: float, lifetime: float) -> None:
    begun = judge_begin(answer(BEGUN | fields))
    assert (begun.device_code, begun.interval_seconds, begun.lifetime_seconds) == ("fake-dc", interval, lifetime)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"error": "invalid_request"}, "invalid_request"),
        (200, {"error": "invalid_request"}, "invalid_request"),
        (500, b"oops", "http_500"),
        (500, {}, "http_500"),
        (503, BEGUN, "http_503"),
        (200, b"<html>", "http_200"),
        (200, {}, "invalid_response"),
        (200, {"device_code": "fake-dc"}, "invalid_response"),
        (200, BEGUN | {"verification_uri_complete": "javascript:alert(1)"}, "invalid_response"),
        (200, BEGUN | {"verification_uri_complete": "https://[broken"}, "invalid_response"),
        (200, BEGUN | {"device_code": 7}, "invalid_response"),
    ],
)
def test_begin_that_is_refused_says_by_what(status: int, body: object, code: str) -> None:
    with pytest.raises(RegistrationRefused) as raised:
        judge_begin(answer(body, status))
    assert raised.value.code == code


# --- the address behind the code --------------------------------------------------------------------------------------


def query(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)


def test_scan_url_keeps_what_is_there_and_adds_where_it_comes_from() -> None:
    url = scan_url("https://accounts.feishu.cn/verify?user_code=A%2BB&x=#top", "Ada & Co {user}")
    assert url.startswith("https://accounts.feishu.cn/verify?user_code=A%2BB&x=&")
    assert url.endswith("#top")
    found = query(url)
    assert found.pop("addons")
    assert found == {
        "user_code": ["A+B"],
        "x": [""],
        "from": ["sdk"],
        "tp": ["sdk"],
        "source": ["agent-gateway"],
        "name": ["Ada & Co {user}"],
    }


def test_scan_url_does_not_say_a_parameter_twice() -> None:
    found = query(scan_url("https://accounts.feishu.cn/verify?from=page&name=Eve", "Ada"))
    assert (found["from"], found["name"], found["tp"]) == (["page"], ["Eve"], ["sdk"])


@pytest.mark.parametrize("case", [case for case in CASES["rfc8628_begin"] if "preset" in case["input"]])
def test_scan_url_cases(case: dict[str, Any]) -> None:
    found = query(scan_url("https://accounts.feishu.cn/verify?user_code=AB", case["input"]["preset"]))
    assert ("name" in found) is case["expected"]["qr_query_has_name"]


@pytest.mark.parametrize(
    ("agent", "preset"),
    [("Ada", "Ada"), ("", "Agent"), (" \t ", "Agent"), (" Ada\n Two ", "Ada Two"), ("x" * 99, "x" * 64)],
)
def test_name_preset_is_the_agents_name(agent: str, preset: str) -> None:
    assert name_preset(agent) == preset


def test_addons_are_the_same_every_time_and_name_what_the_gateway_needs() -> None:
    url = scan_url("https://accounts.feishu.cn/verify")
    assert url == scan_url("https://accounts.feishu.cn/verify")
    packed = query(url)["addons"][0]
    wanted = json.loads(gzip.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))))
    assert "=" not in packed
    assert wanted["events"] == {"items": {"tenant": ["im.message.receive_v1"], "user": []}}
    assert wanted["scopes"]["user"] == []
    assert {
        "im:message.p2p_msg:readonly",
        "im:message.group_at_msg:readonly",
        "im:message:send_as_bot",
        "im:message.reactions:write_only",
        "im:resource",
        "im:message:readonly",
        "contact:user.base:readonly",
    } <= set(wanted["scopes"]["tenant"])
    assert wanted["scopes"]["tenant"] == sorted(wanted["scopes"]["tenant"])
