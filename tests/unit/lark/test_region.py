import pytest

from gateway.lark.region import Region, open_base_url


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
