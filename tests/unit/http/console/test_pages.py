"""Where somebody may be sent after signing in."""

import pytest

from gateway.http.console.pages import local_path


@pytest.mark.parametrize("path", ["/", "/lark/bind?token=abc", "/acme/chats#last", "/a?next=https://else.example"])
def test_paths_of_this_server_are_followed(path: str) -> None:
    assert local_path(path, "") == path


@pytest.mark.parametrize(
    "text",
    ["", "acme", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example",
     "javascript:alert(1)", "/\nevil", "/\tx", "/" + "x" * 3000, " //evil.example", "http:/evil.example", "//[",
     "//[x]/", "http://[", "//\u2100.example"],
)  # fmt: skip
def test_anything_else_is_not(text: str) -> None:
    assert local_path(text, "") == local_path(text, "/gw") == ""


@pytest.mark.parametrize(
    ("path", "followed"),
    [("/gw/lark/bind?token=a", "/gw/lark/bind?token=a"), ("/gw", "/gw"), ("/gw?a", "/gw?a"),
     ("/acme/chats", "/gw/acme/chats"), ("/gwen/chats", "/gw/gwen/chats"), ("/", "/gw/")],
)  # fmt: skip
def test_path_beside_the_mounted_application_is_brought_below_it(path: str, followed: str) -> None:
    assert local_path(path, "/gw") == followed
