import json
from pathlib import Path
from typing import Any

import pytest

from gateway.lark.api.region import Region, accounts_base_url, console_url, is_international, open_base_url

CASES: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "cases" / "registration.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", CASES["region_host"], ids=lambda case: case["id"])
def test_open_base_url_cases(case: dict[str, Any]) -> None:
    assert open_base_url(case["input"]) == case["expected"]


@pytest.mark.parametrize("case", CASES["region_default"], ids=lambda case: case["id"])
def test_region_cases(case: dict[str, Any]) -> None:
    assert Region.of(case["input"]).value == case["expected"]


@pytest.mark.parametrize("case", CASES["intl_host"], ids=lambda case: case["id"])
def test_international_host_cases(case: dict[str, Any]) -> None:
    assert is_international(case["input"]) is case["expected"]


@pytest.mark.parametrize(
    ("override", "international"),
    [
        (" https://Open.LarkSuite.com/ ", True),
        ("http://open.larksuite.com", True),
        ("https://open.larksuite.com:443/base", True),
        (None, False),
        ("open.larksuite.com", False),
        ("//open.larksuite.com", False),
        ("https://open.feishu.cn", False),
        ("https://open.larksuite.com.evil.example", False),
        ("https://open.larksuite.com:8443", False),
        ("https://open.larksuite.com:port", False),
        ("https://[broken", False),
    ],
)
def test_international_is_the_platforms_own_host_with_its_scheme(override: str | None, international: bool) -> None:
    assert is_international(override) is international


@pytest.mark.parametrize(
    ("region", "accounts", "console"),
    [
        ("feishu", "https://accounts.feishu.cn", "https://open.feishu.cn/app/cli_1"),
        ("lark", "https://accounts.larksuite.com", "https://open.larksuite.com/app/cli_1"),
        ("bogus", "https://accounts.feishu.cn", "https://open.feishu.cn/app/cli_1"),
    ],
)
def test_device_flow_and_console_follow_the_region(region: str, accounts: str, console: str) -> None:
    assert accounts_base_url(region) == accounts
    assert accounts_base_url(region, "http://127.0.0.1:9000/") == "http://127.0.0.1:9000"
    assert console_url(region, "cli_1") == console


@pytest.mark.parametrize(
    ("stored", "host"),
    [
        ("feishu", "https://open.feishu.cn"),
        ("lark", "https://open.larksuite.com"),
        ("bogus", "https://open.feishu.cn"),
        ("", "https://open.feishu.cn"),
        (None, "https://open.feishu.cn"),
    ],
)
def test_open_base_url_follows_the_region(stored: object, host: str) -> None:
    assert open_base_url(stored) == host


@pytest.mark.parametrize(
    ("stored", "region"),
    [("feishu", "feishu"), ("lark", "lark"), ("intl", "feishu"), ("LARK", "feishu"), (7, "feishu")],
)
def test_region_of_a_stored_value_defaults_to_feishu(stored: object, region: str) -> None:
    assert Region.of(stored).value == region


@pytest.mark.parametrize("region", ["feishu", "lark", "bogus"])
def test_open_base_url_with_an_override_ignores_the_region(region: str) -> None:
    assert open_base_url(region, "http://127.0.0.1:9000/") == "http://127.0.0.1:9000"


def test_open_base_url_with_a_blank_override_follows_the_region() -> None:
    assert open_base_url("lark", "  ") == "https://open.larksuite.com"
