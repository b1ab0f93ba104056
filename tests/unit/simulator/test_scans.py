"""Apps registered by scanning a code: what the device asks, what the person decides, what the device is told."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import trio.testing

from gateway.simulator.exchange import Request
from gateway.simulator.platform import Person, open_id
from gateway.simulator.scans import Scan, ScanLink, read_link
from gateway.simulator.simulator import Simulator

FORM = {"content-type": "application/x-www-form-urlencoded"}
BEGIN = {
    "action": "begin",
    "archetype": "PersonalAgent",
    "auth_method": "client_secret",
    "request_user_info": "open_id",
}


async def post(simulator: Simulator, region: str = "feishu", **form: str) -> tuple[int, dict[str, Any]]:
    answer = await simulator.respond(
        Request(
            "POST",
            "/oauth/v1/app/registration",
            headers=FORM,
            body=urlencode(form).encode(),
            region=region,
            base_url=f"http://{region}.invalid",
        )
    )
    return answer.status, json.loads(answer.body)


class Device:
    """One registration as the device sees it."""

    def __init__(self, simulator: Simulator, region: str, told: dict[str, Any]) -> None:
        self.simulator = simulator
        self.region = region
        self.told = told
        self.scan: Scan = simulator.scans.find(told["user_code"])

    async def poll(self, region: str = "") -> tuple[int, dict[str, Any]]:
        code = self.told["device_code"]
        return await post(self.simulator, region or self.region, action="poll", device_code=code)

    def agree(self, person: Person, brand: str = "feishu", link: ScanLink | None = None, **options: Any) -> None:
        now = self.simulator.clock.now()
        self.simulator.scans.authorize(self.scan, person, now, brand=brand, link=link or ScanLink(), options=options)


async def begin(simulator: Simulator, region: str = "feishu") -> Device:
    status, told = await post(simulator, region, **BEGIN)
    assert status == 200
    return Device(simulator, region, told)


async def test_begin_tells_codes_address_interval_and_time_left(simulator: Simulator) -> None:
    device = await begin(simulator)

    told = device.told
    assert (told["interval"], told["expires_in"]) == (5, 600)
    assert "expire_in" not in told
    assert told["verification_uri"] == "http://feishu.invalid/page/launcher"
    assert parse_qs(urlsplit(told["verification_uri_complete"]).query) == {"user_code": [told["user_code"]]}
    assert told["device_code"] not in repr(device.scan)


async def test_begin_may_tell_the_time_left_under_the_other_name(simulator: Simulator) -> None:
    simulator.scans.expiry_member = "expire_in"
    told = (await begin(simulator)).told
    assert told["expire_in"] == 600
    assert "expires_in" not in told


async def test_init_names_the_way_to_authenticate(simulator: Simulator) -> None:
    assert await post(simulator, action="init") == (200, {"supported_auth_methods": ["client_secret"]})


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"action": "end"},
        {**BEGIN, "archetype": "Robot"},
        {**BEGIN, "auth_method": "none"},
        {**BEGIN, "request_user_info": ""},
    ],
)
async def test_call_not_understood_is_an_invalid_request(simulator: Simulator, form: dict[str, str]) -> None:
    status, document = await post(simulator, **form)
    assert (status, document["error"]) == (400, "invalid_request")


async def test_call_as_json_is_an_invalid_request(simulator: Simulator) -> None:
    request = Request("POST", "/oauth/v1/app/registration", body=b"{}", headers={"content-type": "application/json"})
    assert json.loads((await simulator.respond(request)).body)["error"] == "invalid_request"


async def test_poll_before_a_decision_is_pending_under_http_400(simulator: Simulator) -> None:
    status, document = await (await begin(simulator)).poll()
    assert (status, document["error"], document["code"]) == (400, "authorization_pending", 20094)


async def test_poll_of_unknown_code_is_an_invalid_grant(simulator: Simulator) -> None:
    status, document = await post(simulator, action="poll", device_code="nothing")
    assert (status, document["error"]) == (400, "invalid_grant")


async def test_poll_too_early_is_told_to_slow_down_and_the_interval_grows(
    simulator: Simulator, mock_clock: trio.testing.MockClock
) -> None:
    device = await begin(simulator)
    errors = []
    for wait in (0.0, 5.0, 1.0, 5.0, 15.0):
        mock_clock.jump(wait)
        errors.append((await device.poll())[1]["error"])

    pending, slower = "authorization_pending", "slow_down"
    assert errors == [pending, pending, slower, slower, pending]
    assert device.scan.interval == 15


async def test_agreed_the_device_gets_an_app_that_works(simulator: Simulator, ada: Person) -> None:
    device = await begin(simulator)
    device.agree(ada)
    status, document = await device.poll()

    app = simulator.platform.app(document["client_id"])
    assert status == 200
    assert document["client_secret"] == app.secret
    assert document["user_info"] == {"open_id": open_id(app.app_id, ada.union_id), "tenant_brand": "feishu"}
    assert simulator.platform.grant_token(app.app_id, app.secret, simulator.clock.now())[0]
    assert app.name == "Ada's agent"


async def test_agreed_answer_lost_the_next_poll_says_the_same(
    simulator: Simulator, ada: Person, mock_clock: trio.testing.MockClock
) -> None:
    device = await begin(simulator)
    device.agree(ada)
    first = await device.poll()
    mock_clock.jump(1000)
    assert await device.poll() == first


@pytest.mark.parametrize(("begun", "brand"), [("feishu", "lark"), ("lark", "feishu")])
async def test_agreed_in_the_other_cloud_credentials_are_there_only(
    simulator: Simulator, ada: Person, begun: str, brand: str
) -> None:
    device = await begin(simulator, begun)
    device.agree(ada, brand)
    status, here = await device.poll()
    _, there = await device.poll(brand)

    app = simulator.platform.app(here["client_id"])
    assert (status, here["client_secret"], here["user_info"]["tenant_brand"]) == (200, "", brand)
    assert (there["client_id"], there["client_secret"]) == (app.app_id, app.secret)
    assert app.region == brand
    for region, code in ((begun, 10003), (brand, 0)):
        credentials = json.dumps({"app_id": app.app_id, "app_secret": app.secret}).encode()
        path = "/open-apis/auth/v3/tenant_access_token/internal"
        answer = await simulator.respond(Request("POST", path, body=credentials, region=region))
        assert answer.code == code


async def test_clouds_on_one_host_send_the_device_away_once(simulator: Simulator, ada: Person) -> None:
    simulator.scans.regions_apart = False
    device = await begin(simulator)
    device.agree(ada, "lark")

    assert (await device.poll())[1]["client_secret"] == ""
    assert (await device.poll())[1]["client_secret"]


async def test_token_and_bootstrap_of_one_cloud_are_unknown_to_the_other(simulator: Simulator) -> None:
    app = simulator.create_app("Echo", region="lark")
    token, _ = simulator.platform.grant_token(app.app_id, app.secret, simulator.clock.now())
    body = json.dumps({"AppID": app.app_id, "AppSecret": app.secret}).encode()
    for region, codes in (("feishu", (99991663, 514)), ("lark", (0, 0))):
        headers = {"authorization": f"Bearer {token}"}
        info = await simulator.respond(Request("GET", "/open-apis/bot/v3/info", headers=headers, region=region))
        door = await simulator.respond(Request("POST", "/callback/ws/endpoint", body=body, region=region))
        assert (info.code, door.code) == codes
    assert [call.region for call in simulator.calls] == ["feishu", "feishu", "lark", "lark"]


async def test_refused_the_device_is_told_and_nothing_is_created(simulator: Simulator, ada: Person) -> None:
    device = await begin(simulator)
    simulator.scans.deny(device.scan, simulator.clock.now())

    status, document = await device.poll()
    assert (status, document["error"]) == (400, "access_denied")
    with pytest.raises(ValueError, match="denied already"):
        device.agree(ada)
    assert simulator.platform.apps == {}


@pytest.mark.parametrize("early", [True, False])
async def test_expired_by_time_or_by_hand_the_device_is_told(
    simulator: Simulator, ada: Person, mock_clock: trio.testing.MockClock, early: bool
) -> None:
    device = await begin(simulator)
    if early:
        simulator.scans.expire(device.scan, simulator.clock.now())
    else:
        mock_clock.jump(600)

    status, document = await device.poll()
    assert (status, document["error"]) == (400, "expired_token")
    with pytest.raises(ValueError, match="expired already"):
        device.agree(ada)


def address(code: str, **presets: Any) -> str:
    return "http://feishu.invalid/page/launcher?" + urlencode({"user_code": code, **presets}, doseq=True)


def packed(addons: object) -> str:
    return base64.urlsafe_b64encode(gzip.compress(json.dumps(addons).encode(), mtime=0)).decode().rstrip("=")


async def test_presets_of_the_address_make_the_app(simulator: Simulator, ada: Person) -> None:
    device = await begin(simulator)
    addons = {"scopes": {"tenant": ["im:message.group_at_msg.include_bot:readonly"]}, "preset": False}
    code = device.told["user_code"]
    url = address(code, name="{user} & Échos", desc="d", avatar=["a", "b"], addons=packed(addons), source="x/y")
    device.agree(ada, link=read_link(url, code), shows_user_ids=True)

    app = simulator.platform.app(device.scan.app_id)
    assert (app.name, app.hears_bots, app.shows_user_ids) == ("Ada & Échos", True, True)
    assert device.scan.link.addons == addons
    assert (device.scan.link.avatars, device.scan.link.source) == (("a", "b"), "x/y")


async def test_app_named_by_the_address_is_connected_again_unless_a_new_one_is_wanted(
    simulator: Simulator, ada: Person
) -> None:
    app = simulator.create_app("Echo")
    for only_new in (False, True):
        device = await begin(simulator)
        device.agree(ada, link=ScanLink(client_id=app.app_id, create_only=only_new))
        assert (device.scan.app_id == app.app_id) is not only_new


@pytest.mark.parametrize(
    ("presets", "complaint"),
    [
        ({"user_code": "WRONG-ONE"}, "WRONG-ONE"),
        ({"avatar": ["a"] * 7}, "at most 6"),
        ({"addons": "bm90IGd6aXA"}, "addons cannot be read"),
        ({"addons": packed([])}, "addons cannot be read"),
        ({"addons": "!"}, "addons cannot be read"),
    ],
)
def test_address_that_the_page_refuses(presets: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_link(address(presets.pop("user_code", "CODE-CODE"), **presets), "CODE-CODE")


async def test_poll_planned_to_fail_does_so(simulator: Simulator) -> None:
    device = await begin(simulator)
    simulator.fail_next("/oauth/v1/app/registration", status=502, body="<html>bad gateway</html>")
    body = f"action=poll&device_code={device.told['device_code']}".encode()
    request = Request("POST", "/oauth/v1/app/registration", headers=FORM, body=body)

    assert (await simulator.respond(request)).status == 502
    assert (await simulator.respond(request)).status == 400


async def test_brand_unknown_is_refused(simulator: Simulator, ada: Person) -> None:
    device = await begin(simulator)
    with pytest.raises(ValueError, match="feishu, lark"):
        device.agree(ada, "larksuite")
    with pytest.raises(ValueError, match="lives in"):
        simulator.create_app("Echo", region="mars")
