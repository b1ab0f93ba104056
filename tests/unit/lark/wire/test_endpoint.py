from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.channel.errors import PlatformRefused, PlatformUnavailable
from gateway.lark.wire.endpoint import (
    ClientConfig,
    Endpoint,
    judge_answer,
    judge_handshake,
    read_client_config,
    request_body,
)
from support.vectors import vectors

URL = "wss://frontier.example.invalid/ws/v2?device_id=1&service_id=33554678&ticket=not-a-real-ticket"


def judge(vector: dict[str, Any]) -> Endpoint:
    body = vector["text"].encode() if "text" in vector else msgspec.json.encode(vector["body"])
    return judge_answer(vector["http"], body)


@vectors("bootstrap")
def test_answer_of_a_vector_reaches_its_outcome(vector: dict[str, Any]) -> None:
    if vector["outcome"] == "connect":
        endpoint = judge(vector)
        assert endpoint.service_id == vector["service_id"]
        assert endpoint.client_config.ping_interval_seconds == vector["ping_interval_seconds"]
        return
    kind = PlatformRefused if vector["outcome"] == "refused" else PlatformUnavailable
    with pytest.raises(kind) as caught:
        judge(vector)
    assert caught.value.code == vector.get("code", 0)


@vectors("bootstrap")
def test_answer_of_a_vector_never_shows_a_ticket(vector: dict[str, Any]) -> None:
    try:
        shown = repr(judge(vector))
    except (PlatformRefused, PlatformUnavailable) as error:
        shown = repr(error)
    assert "ticket" not in shown
    assert "service_id=" not in shown.replace("service_id=33", "").replace("service_id=7", "").replace(
        "service_id=-1", ""
    )


def test_request_body_has_the_keys_the_platform_expects() -> None:
    assert msgspec.json.decode(request_body('cli_"x"', 's"e\\cret')) == {"AppID": 'cli_"x"', "AppSecret": 's"e\\cret'}


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "resource", "tls"),
    [
        (URL, "frontier.example.invalid", 443, "frontier.example.invalid", URL.partition("invalid")[2], True),
        ("ws://127.0.0.1:8001?service_id=1", "127.0.0.1", 8001, "127.0.0.1:8001", "/?service_id=1", False),
        ("ws://user:word@[::1]:9/a", "::1", 9, "[::1]:9", "/a", False),
        ("ws://h.invalid", "h.invalid", 80, "h.invalid", "/", False),
    ],
)
def test_endpoint_gives_the_parts_that_dialling_needs(
    url: str, host: str, port: int, authority: str, resource: str, tls: bool
) -> None:
    endpoint = Endpoint(url, 1)
    assert (endpoint.host, endpoint.port, endpoint.authority) == (host, port, authority)
    assert (endpoint.resource, endpoint.tls) == (resource, tls)


def test_endpoint_shown_has_no_query() -> None:
    endpoint = Endpoint(URL, 33554678)
    assert str(endpoint) == "wss://frontier.example.invalid/ws/v2"
    assert "ticket" not in repr(endpoint)


def test_refusal_says_in_words_what_to_look_at() -> None:
    with pytest.raises(PlatformRefused, match=r"app secret is not accepted \(auth failed\)"):
        judge_answer(200, b'{"code":514,"msg":"auth failed"}')


def test_refusal_of_a_talkative_platform_is_cut() -> None:
    with pytest.raises(PlatformRefused) as caught:
        judge_answer(200, msgspec.json.encode({"code": 9, "msg": "x" * 10_000}))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("headers", "kind", "code"),
    [
        ([(b"Handshake-Status", b"403"), (b"Handshake-Msg", b"forbidden")], PlatformRefused, 403),
        ([(b"handshake-status", b"514"), (b"handshake-autherrcode", b"1000040350")], PlatformRefused, 1000040350),
        ([(b"HANDSHAKE-STATUS", b"514"), (b"HANDSHAKE-AUTHERRCODE", b"1000040349")], PlatformUnavailable, 514),
        ([(b"handshake-status", b"514")], PlatformUnavailable, 514),
        ([(b"handshake-status", b"500")], PlatformUnavailable, 500),
        ([(b"handshake-status", b"not a number")], PlatformUnavailable, 0),
        ([(b"handshake-status", b"\xff")], PlatformUnavailable, 0),
        ([(b"handshake-msg", b"\xff\xfe")], PlatformUnavailable, 0),
        ([], PlatformUnavailable, 0),
    ],
)
def test_handshake_refused_is_judged_by_its_headers(
    headers: list[tuple[bytes, bytes]], kind: type[Exception], code: int
) -> None:
    verdict = judge_handshake(403, headers)
    assert isinstance(verdict, kind)
    assert verdict.code == code


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"PingInterval": None}, {"PingInterval": True}, {"PingInterval": 0}, {"PingInterval": -1}]
    + [{"PingInterval": value} for value in ("60", [60], 1e-9, 10**9, float("inf"), float("nan"))],
)
def test_client_config_without_a_usable_interval_says_nothing(value: object) -> None:
    assert read_client_config(value) == ClientConfig()


def test_client_config_takes_seconds() -> None:
    assert read_client_config({"PingInterval": 90}) == ClientConfig(90.0)
    assert read_client_config({"PingInterval": 0.5}) == ClientConfig(0.5)


def test_answer_nested_deeper_than_the_parser_goes_is_retried() -> None:
    with pytest.raises(PlatformUnavailable):
        judge_answer(200, b'{"code":0,"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
