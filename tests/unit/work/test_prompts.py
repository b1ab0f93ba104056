from __future__ import annotations

import pytest

from gateway.work.people.binding_prompts import bind_link


@pytest.mark.parametrize(
    ("public_url", "token", "expected"),
    [
        (
            "https://app.example.test/",
            "token with space",
            "https://app.example.test/lark/bind?token=token+with+space",
        ),
        ("https://gateway.example", "aZ09-_", "https://gateway.example/lark/bind?token=aZ09-_"),
        ("https://gateway.example/base", "a&b=c#d", "https://gateway.example/base/lark/bind?token=a%26b%3Dc%23d"),
    ],
)
def test_bind_link_quotes_its_token_and_has_one_slash(public_url: str, token: str, expected: str) -> None:
    assert bind_link(public_url, token) == expected
