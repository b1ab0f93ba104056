"""Posted events beside the official SDK: its cipher, and its dispatcher's judgement of whole requests."""

from __future__ import annotations

import json
import warnings
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.lark.chat.callback import CallbackEvent, CallbackSecrets, Challenge, decrypt, judge
from support.posted import KEY, TOKEN, challenge, encrypted, message_event, signed


@pytest.fixture(scope="module")
def sdk() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lark_oapi
    return lark_oapi


class Theirs:
    """A dispatcher of the SDK with a handler for messages."""

    def __init__(self, sdk: Any, encrypt_key: str, token: str) -> None:
        self.sdk = sdk
        self.texts: list[str] = []
        builder = sdk.EventDispatcherHandler.builder(encrypt_key, token, sdk.LogLevel.CRITICAL)
        self.handler = builder.register_p2_im_message_receive_v1(self._take).build()

    def _take(self, data: Any) -> None:
        self.texts.append(json.loads(data.event.message.content)["text"])

    def ask(self, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        request = self.sdk.RawRequest()
        request.uri, request.headers, request.body = "/", headers, body
        response = self.handler.do(request)
        return response.status_code, response.content


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(plaintext=st.text(min_size=1, max_size=200), key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_cipher_agrees_with_the_sdks(sdk: Any, plaintext: str, key: str) -> None:
    text = plaintext.encode("utf-8", "replace").decode()
    field = json.loads(encrypted(text.encode(), key))["encrypt"]
    assert sdk.AESCipher(key).decrypt_str(field).encode() == decrypt(field, key) == text.encode()


@pytest.mark.parametrize("key", [KEY, ""])
def test_events_that_we_take_the_sdk_takes_and_the_other_way_round(sdk: Any, key: str) -> None:
    cases = [
        (message_event("one", app_id="cli_a"), key, True),
        (message_event("two", app_id="cli_a", token="another"), key, False),
        (message_event("three", app_id="cli_a"), "another key", not key),
    ]
    for plaintext, used, good in cases:
        posted = signed(encrypted(plaintext, used) if key else plaintext, used)
        theirs = Theirs(sdk, key, TOKEN)
        status, content = theirs.ask(posted.headers, posted.body)
        ours = judge(posted.headers, posted.body, CallbackSecrets(key, TOKEN), now=datetime.now(UTC))
        assert (status == 200, isinstance(ours, CallbackEvent)) == (good, good)
        if good:
            assert json.loads(content) == {"msg": "success"}
            assert ours == CallbackEvent(plaintext)
            assert len(theirs.texts) == 1


@pytest.mark.parametrize("key", [KEY, ""])
def test_challenges_that_we_answer_the_sdk_answers_alike(sdk: Any, key: str) -> None:
    for token, good in ((TOKEN, True), ("another", False)):
        body = encrypted(challenge("echo-me", token), key) if key else challenge("echo-me", token)
        status, content = Theirs(sdk, key, TOKEN).ask({}, body)
        ours = judge({}, body, CallbackSecrets(key, TOKEN), now=datetime.now(UTC))
        assert (status == 200, isinstance(ours, Challenge)) == (good, good)
        if good:
            assert json.loads(content) == {"challenge": "echo-me"}
            assert ours == Challenge("echo-me")
