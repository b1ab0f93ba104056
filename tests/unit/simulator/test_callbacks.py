"""Events over HTTP: what is posted, what proves an address, what comes back later, and what a test can get wrong."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from gateway.simulator.callbacks import CallbackReply, Letter, Unreachable, encrypt, sign
from gateway.simulator.delivery import EventRecord
from gateway.simulator.platform import App, Person
from gateway.simulator.simulator import Simulator

KEY = "test key"
URL = "http://127.0.0.1:1/events"


class Mailbox:
    """Stands for the network: keeps every letter, and answers as it is told."""

    def __init__(self) -> None:
        self.letters: list[Letter] = []
        self.statuses: list[int] = []
        self.reachable = True
        self.delay = 0.0

    async def post(self, letter: Letter) -> CallbackReply:
        self.letters.append(letter)
        await trio.sleep(self.delay)
        if not self.reachable:
            raise Unreachable("nobody there")
        document = opened(letter)
        body = {"challenge": document["challenge"]} if "challenge" in document else {"msg": "success"}
        return CallbackReply(self.statuses.pop(0) if self.statuses else 200, json.dumps(body).encode())


def opened(letter: Letter, key: str = KEY) -> dict[str, Any]:
    """The event inside a letter, written against the official description and not against our own code."""
    document = dict(json.loads(letter.body))
    if "encrypt" not in document:
        return document
    sealed = base64.b64decode(document["encrypt"])
    decryptor = Cipher(algorithms.AES(hashlib.sha256(key.encode()).digest()), modes.CBC(sealed[:16])).decryptor()
    padded = decryptor.update(sealed[16:]) + decryptor.finalize()
    return dict(json.loads(padded[: -padded[-1]]))


def signed(letter: Letter) -> bool:
    headers = letter.headers
    text = headers["x-lark-request-timestamp"] + headers["x-lark-request-nonce"] + KEY
    return headers["x-lark-signature"] == hashlib.sha256(text.encode() + letter.body).hexdigest()


@pytest.fixture
async def mailbox(simulator: Simulator) -> Mailbox:
    mailbox = Mailbox()
    simulator.callbacks.post = mailbox.post
    return mailbox


@pytest.fixture
async def app(simulator: Simulator, mailbox: Mailbox) -> App:
    return simulator.create_app(
        "Echo", event_mode="http", event_url=URL, encrypt_key=KEY, verification_token="simulated-token"
    )


async def settled(simulator: Simulator, record: EventRecord) -> EventRecord:
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            await nursery.start(simulator.delivery.run)
            await record.settled()
            nursery.cancel_scope.cancel()
    return record


def test_encryption_agrees_with_the_published_example() -> None:
    published = "P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk="
    assert encrypt(b"hello world", "test key", base64.b64decode(published)[:16]) == published


def test_signature_agrees_with_the_official_checker() -> None:
    body = (
        b'{"encrypt":"AAECAwQFBgcICQoLDA0ODzksK1XHDGhxTlKJKwLymcMyd1nZHD+oH9xjSv/'
        b'KOaKKujf1zdoMvlaBH0eBprHl35aYrGsyp4qpNFXD04OHE/0="}'
    )
    expected = "d3f9ef95e84850e8174909d99643ca98d0b1e273b976047b6934353e775120ec"
    assert sign("1767225600", "nonce-1", "test key", body) == expected


async def test_event_is_posted_encrypted_signed_and_with_the_token(
    simulator: Simulator, app: App, ada: Person, mailbox: Mailbox
) -> None:
    record = await settled(simulator, simulator.say(ada, app, "hi").event)

    [letter] = mailbox.letters
    event = opened(letter)
    assert (letter.url, signed(letter)) == (URL, True)
    assert (event["header"]["token"], event["header"]["event_id"]) == ("simulated-token", record.event_id)
    assert event["event"]["message"]["content"] == '{"text":"hi"}'
    assert (record.state, record.pushes[0].ack_code, record.pushes[0].ack_payload) == (
        "delivered",
        200,
        '{"msg": "success"}',
    )
    assert KEY not in repr(letter) + repr(app)
    assert "simulated-token" not in repr(app)


async def test_event_without_a_key_is_plain_and_unsigned(
    simulator: Simulator, app: App, ada: Person, mailbox: Mailbox
) -> None:
    app.encrypt_key = ""
    await settled(simulator, simulator.say(ada, app, "hi").event)
    [letter] = mailbox.letters
    assert json.loads(letter.body)["schema"] == "2.0"
    assert "x-lark-signature" not in letter.headers


async def test_event_refused_unreachable_or_slow_comes_again_on_schedule(
    simulator: Simulator, app: App, ada: Person, mailbox: Mailbox, autojump_clock: trio.testing.MockClock
) -> None:
    mailbox.statuses = [500, 503]
    refused = await settled(simulator, simulator.say(ada, app, "hi").event)
    assert [push.outcome for push in refused.pushes] == ["refused", "refused", "delivered"]
    assert [push.ack_code for push in refused.pushes] == [500, 503, 200]
    assert refused.pushes[2].at - refused.pushes[1].at == 300_000
    assert len({opened(letter)["header"]["event_id"] for letter in mailbox.letters}) == 1
    assert len({letter.headers["x-lark-request-nonce"] for letter in mailbox.letters}) == 3

    mailbox.delay = 5
    slow = await settled(simulator, simulator.say(ada, app, "hi").event)
    assert ([push.outcome for push in slow.pushes], slow.state) == (["timeout"] * 5, "given_up")

    mailbox.reachable, mailbox.delay = False, 0
    lost = await settled(simulator, simulator.say(ada, app, "hi").event)
    assert {push.outcome for push in lost.pushes} == {"unreachable"}
    assert lost.pushes[0].complaint == "nobody there"


async def test_app_without_an_address_hears_nothing(
    simulator: Simulator, app: App, ada: Person, mailbox: Mailbox, autojump_clock: trio.testing.MockClock
) -> None:
    app.event_url = ""
    record = await settled(simulator, simulator.say(ada, app, "hi").event)
    assert (record.state, mailbox.letters) == ("given_up", [])
    assert record.pushes[0].complaint == "the app has named no address"


async def test_address_that_answers_the_challenge_is_proved(simulator: Simulator, app: App, mailbox: Mailbox) -> None:
    assert (await simulator.callbacks.verify(app))[1]
    [letter] = mailbox.letters
    asked = opened(letter)
    assert (asked["type"], asked["token"]) == ("url_verification", "simulated-token")
    assert "x-lark-signature" not in letter.headers

    async def forget(letter: Letter) -> CallbackReply:
        return CallbackReply(200, b'{"msg":"success"}')

    simulator.callbacks.post = forget
    assert not (await simulator.callbacks.verify(app))[1]


async def test_spoiled_event_is_wrong_in_one_way_and_the_next_is_right(
    simulator: Simulator, app: App, ada: Person, mailbox: Mailbox
) -> None:
    for how in ("wrong_signature", "unsigned", "wrong_token", "wrong_key", "unencrypted"):
        simulator.spoil_pushes(how, app_id=app.app_id)

    async def posted() -> Letter:
        mailbox.letters.clear()
        await simulator.callbacks.push(app.app_id, simulator.say(ada, app, "hi").event.payload)
        return mailbox.letters[0]

    assert not signed(await posted())
    assert "x-lark-signature" not in (await posted()).headers
    token = opened(await posted())["header"]["token"]
    assert token not in ("", "simulated-token")
    with pytest.raises(ValueError, match=r"."):
        await posted()  # the mailbox cannot open it either
    assert signed(mailbox.letters[0])
    assert opened(mailbox.letters[0], "another key")["schema"] == "2.0"
    plain = await posted()
    assert json.loads(plain.body)["schema"] == "2.0"
    assert signed(plain)
    right = await posted()
    assert signed(right)
    assert opened(right)["header"]["token"] == "simulated-token"


async def test_spoiled_event_may_be_signed_long_ago(
    simulator: Simulator, app: App, ada: Person, mailbox: Mailbox
) -> None:
    simulator.spoil_pushes("", age_seconds=7200)
    await simulator.callbacks.push(app.app_id, b"{}")
    [letter] = mailbox.letters
    age = simulator.clock.wall_ms() / 1000 - int(letter.headers["x-lark-request-timestamp"])
    assert signed(letter)
    assert 7198 < age < 7202


@pytest.mark.parametrize(
    "options",
    [
        {"event_mode": "pigeon"},
        {"event_url": "http://192.0.2.1/"},
        {"event_url": "https://127.0.0.1/"},
        {"event_url": "file:///etc/passwd"},
    ],
)
async def test_app_with_a_mode_or_address_that_is_none_is_refused(
    simulator: Simulator, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="events"):
        simulator.create_app("Echo", **options)


async def test_spoiling_in_an_unknown_way_is_refused(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="gently"):
        simulator.spoil_pushes("gently")
