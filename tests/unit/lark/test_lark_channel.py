"""What a Lark channel does between its connection and its handler, without either."""

import json
from typing import Any
from uuid import UUID

import pytest
import structlog
import trio

from gateway.channel.capability import Capability
from gateway.channel.channel import ChannelConfig, ConnectionState, LinkLost, LinkRefused, Verdict, typing_of
from gateway.channel.errors import PlatformError, PlatformRefused, PlatformThrottled, PlatformUnavailable
from gateway.channel.message import InboundMessage, OutboundMessage, Tone
from gateway.core.replies import Button
from gateway.lark.api.client import BotIdentity, HttpClient
from gateway.lark.api.clients import LarkClients
from gateway.lark.api.rest import ApiPage
from gateway.lark.chat.cards import Rendered
from gateway.lark.chat.channel import LarkChannel, lark_factory
from gateway.lark.chat.connection import RawLink
from gateway.lark.wire.endpoint import Endpoint

ID = UUID(int=1)
RAW = {"app_id": "cli_a", "app_secret": "fake-secret", "bot_open_id": "ou_bot", "region": "feishu"}


class FakeClient:
    """Stands in for LarkClient: answers in the order given, remembers what was sent."""

    def __init__(self, *answers: str | PlatformError) -> None:
        self.answers = list(answers)
        self.sent: list[dict[str, Any]] = []
        self.listed: list[Any] = []
        self.identity: BotIdentity | PlatformError = BotIdentity("ou_bot", "on_bot")

    async def send(self, message: Rendered, **fields: Any) -> str:
        return await self._take({"type": message.type, "text": message.words, **fields})

    async def _take(self, fields: dict[str, Any]) -> str:
        self.sent.append(fields)
        answer = self.answers.pop(0)
        if isinstance(answer, PlatformError):
            raise answer
        return answer

    async def list_messages(self, *, chat_id: str, thread_id: str) -> ApiPage:
        assert (chat_id, thread_id) == ("oc_1", "omt_1")
        return ApiPage(tuple(self.listed), "", complete=True)

    async def react(self, message_id: str, emoji_type: str) -> str:
        return await self._take({"message_id": message_id, "emoji_type": emoji_type})

    async def unreact(self, message_id: str, reaction_id: str) -> None:
        self.answers = self.answers or [""]
        await self._take({"message_id": message_id, "reaction_id": reaction_id})

    async def identify(self) -> BotIdentity:
        if isinstance(self.identity, PlatformError):
            raise self.identity
        return self.identity

    async def fetch_endpoint(self) -> Endpoint:
        raise PlatformUnavailable("the platform is away")


async def nowhere(_endpoint: Endpoint) -> RawLink:
    raise AssertionError("nothing is dialled here")


class Handler:
    def __init__(self, verdict: Verdict = Verdict.SETTLED) -> None:
        self.verdict = verdict
        self.messages: list[InboundMessage] = []

    async def __call__(self, message: InboundMessage) -> Verdict:
        self.messages.append(message)
        return self.verdict


def channel(
    client: FakeClient | None = None, handler: Handler | None = None, raw: dict[str, Any] | None = None
) -> LarkChannel:
    config = ChannelConfig(type="feishu", installation_id=ID, raw=raw or RAW, handler=handler or Handler())
    return LarkChannel(config, client or FakeClient(), open_stream=nowhere)  # type: ignore[arg-type]


def event(app_id: str = "cli_a", event_type: str = "im.message.receive_v1", text: str = "fake words") -> bytes:
    message = {"message_id": "om_1", "chat_id": "oc_1", "chat_type": "p2p", "message_type": "text"}
    return json.dumps(
        {
            "schema": "2.0",
            "header": {"event_id": "ev_1", "event_type": event_type, "app_id": app_id},
            "event": {
                "sender": {"sender_id": {"open_id": "ou_1"}, "sender_type": "user"},
                "message": message | {"content": json.dumps({"text": text})},
            },
        }
    ).encode()


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.SETTLED, 200), (Verdict.REDELIVER, 500)])
async def test_receive_of_a_message_asks_the_handler(verdict: Verdict, code: int) -> None:
    handler = Handler(verdict)
    assert await channel(handler=handler).receive(event()) == code
    (message,) = handler.messages
    assert (message.app_id, message.text) == ("cli_a", "fake words")


async def test_receive_of_an_event_without_an_app_is_ours() -> None:
    handler = Handler()
    assert await channel(handler=handler).receive(event(app_id="")) == 200
    assert handler.messages[0].app_id == "cli_a"


@pytest.mark.parametrize(
    ("payload", "logged"),
    [
        (b"not json", ["lark_event_unreadable"]),
        (b"{", ["lark_event_unreadable"]),
        (event(event_type="im.message.message_read_v1"), []),
        (b"", []),
    ],
)
async def test_receive_of_what_is_not_wanted_is_settled_without_its_content_in_the_log(
    payload: bytes, logged: list[str]
) -> None:
    handler = Handler()
    with structlog.testing.capture_logs() as events:
        assert await channel(handler=handler).receive(payload) == 200
    assert handler.messages == []
    assert [entry["event"] for entry in events] == logged
    assert "fake words" not in repr(events)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (event(app_id="cli_b"), "an event of another app"),
        (event(app_id="cli_b").replace(b"om_1", b""), "a message without message_id"),
        (event().replace(b"om_1", b""), "a message without message_id"),
        (event(app_id="b" * 5000), "a message whose app_id has 5000 characters; the limit is 256"),
    ],
)
async def test_receive_of_an_unusable_message_is_recorded_for_this_bot(payload: bytes, problem: str) -> None:
    handler = Handler()
    with structlog.testing.capture_logs() as events:
        assert await channel(handler=handler).receive(payload) == 200
    (message,) = handler.messages
    assert (message.app_id, message.problem) == ("cli_a", problem)
    assert [entry["event"] for entry in events] == ["lark_event_unusable"]
    assert "fake words" not in repr(events) + repr(message)


async def test_receive_lets_a_failure_of_the_handler_pass() -> None:
    async def fail(_message: InboundMessage) -> Verdict:
        raise RuntimeError("poison")

    config = ChannelConfig(type="feishu", installation_id=ID, raw=RAW, handler=fail)
    poisoned = LarkChannel(config, FakeClient(), open_stream=nowhere)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="poison"):
        await poisoned.receive(event())


async def test_send_to_a_chat_or_a_person() -> None:
    client = FakeClient("om_1", "om_2")
    speaker = channel(client)
    result = await speaker.send(OutboundMessage(text="hi", idempotency_key="u-1", chat_id="oc_1"))
    await speaker.send(OutboundMessage(text="hi", idempotency_key="u-2", user_id="ou_1"))
    assert result.message_id == "om_1"
    assert [(sent["chat_id"], sent["open_id"], sent["reply_to"]) for sent in client.sent] == [
        ("oc_1", "", ""),
        ("", "ou_1", ""),
    ]


@pytest.mark.parametrize("thread", ["", "omt_1"])
async def test_send_of_a_reply_stays_in_its_thread(thread: str) -> None:
    client = FakeClient("om_1")
    message = OutboundMessage(text="hi", idempotency_key="u", chat_id="oc_1", thread_id=thread, reply_to="om_q")
    await channel(client).send(message)
    assert (client.sent[0]["reply_to"], client.sent[0]["in_thread"]) == ("om_q", bool(thread))


@pytest.mark.parametrize("code", [230011, 230019, 230050, 230071, 230072, 230110, 230111, 231003])
async def test_send_of_a_reply_that_is_impossible_goes_to_the_chat_with_the_same_key(code: int) -> None:
    client = FakeClient(PlatformRefused("no", code=code), "om_2")
    message = OutboundMessage(text="hi", idempotency_key="u", chat_id="oc_1", reply_to="om_q")
    assert (await channel(client).send(message)).message_id == "om_2"
    assert [(sent["reply_to"], sent["uuid"]) for sent in client.sent] == [("om_q", "u"), ("", "u")]


IN_TOPIC = OutboundMessage(text="hi", idempotency_key="u", chat_id="oc_1", thread_id="omt_1", reply_to="om_q")


@pytest.mark.parametrize("item", [{"message_id": "om_5", "root_id": "om_root"}, {"message_id": "om_root"}])
async def test_send_to_a_topic_whose_message_is_gone_replies_to_its_first_one(item: dict[str, str]) -> None:
    client = FakeClient(PlatformRefused("recalled", code=230011), "om_2")
    client.listed = [None, item]
    assert (await channel(client).send(IN_TOPIC)).message_id == "om_2"
    assert [(sent["reply_to"], sent["in_thread"]) for sent in client.sent] == [("om_q", True), ("om_root", True)]


@pytest.mark.parametrize("listed", [[], [{"message_id": "om_q"}], [{"message_id": "om_5", "root_id": "om_root"}]])
async def test_send_to_a_topic_never_leaves_it(listed: list[dict[str, str]]) -> None:
    client = FakeClient(*[PlatformRefused("recalled", code=230011)] * 2)
    client.listed = list(listed)
    with pytest.raises(PlatformRefused, match="recalled"):
        await channel(client).send(IN_TOPIC)
    assert all(sent["reply_to"] for sent in client.sent)


CALL = 'done <at user_id="all">everybody</at>!'


@pytest.mark.parametrize(
    "text", [CALL, "done <at id=all></at>!", "done <AT user_id='all' >!", 'done <at x="1" user_id = "all">!']
)
async def test_agent_does_not_call_everybody(text: str) -> None:
    client = FakeClient("om_1")
    await channel(client).send(OutboundMessage(text=text, idempotency_key="u", chat_id="oc_1", tone=Tone.ANSWER))
    assert client.sent[0]["text"] == "done @all!"


async def test_agent_calls_one_person_or_everybody_where_its_bot_allows_it() -> None:
    one = 'hi <at user_id="ou_all">Al</at>'
    for text, config in ((one, {}), (CALL, {"allow_mention_all": True})):
        client = FakeClient("om_1")
        message = OutboundMessage(text=text, idempotency_key="u", chat_id="oc_1", tone=Tone.ANSWER)
        await channel(client, raw=RAW | config).send(message)
        assert client.sent[0]["text"] == text


@pytest.mark.parametrize(
    "error",
    [
        PlatformThrottled("slow down", retry_after=1, code=230020),
        PlatformUnavailable("being sent", code=230049),
        PlatformUnavailable("no answer"),
        PlatformRefused("bot not in chat", code=230002),
    ],
)
async def test_send_of_a_reply_that_failed_otherwise_is_not_sent_twice(error: PlatformError) -> None:
    client = FakeClient(error)
    with pytest.raises(PlatformError) as raised:
        await channel(client).send(OutboundMessage(text="hi", idempotency_key="u", chat_id="oc_1", reply_to="om_q"))
    assert raised.value is error
    assert len(client.sent) == 1


@pytest.mark.parametrize(
    ("text", "tone", "type"),
    [
        ("plain", Tone.ANSWER, "text"),
        ("**bold**", Tone.ANSWER, "interactive"),
        ("**bold**", Tone.NOTICE, "text"),
        ("it failed", Tone.ERROR, "interactive"),
    ],
)
async def test_send_draws_markdown_of_agents_and_errors_as_cards(text: str, tone: Tone, type: str) -> None:
    client = FakeClient("om_1")
    await channel(client).send(OutboundMessage(text=text, idempotency_key="u", chat_id="oc_1", tone=tone))
    assert [(sent["type"], sent["text"]) for sent in client.sent] == [(type, text)]


ASK = "Open this link.\nhttps://g.test/lark/bind?token=fake"
ASKED = OutboundMessage(
    text=ASK, idempotency_key="u", user_id="ou_1", button=Button("Link", "https://g.test/lark/bind?token=fake")
)


async def test_send_of_a_message_with_a_button_is_a_card_to_the_person() -> None:
    client = FakeClient("om_1")
    await channel(client).send(ASKED)
    assert [(sent["type"], sent["text"], sent["open_id"]) for sent in client.sent] == [
        ("interactive", "Open this link.", "ou_1")
    ]


async def test_send_of_a_button_whose_card_is_refused_has_its_link_in_the_text() -> None:
    client = FakeClient(PlatformRefused("ErrCode: 11310", code=230099), "om_2")
    await channel(client).send(ASKED)
    assert [(sent["type"], sent["text"]) for sent in client.sent][1:] == [("text", ASK)]


@pytest.mark.parametrize("code", [230025, 230099])
async def test_send_of_a_card_that_is_refused_goes_as_text_with_the_same_key(code: int) -> None:
    client = FakeClient(PlatformRefused("ErrCode: 11310", code=code), "om_2")
    message = OutboundMessage(text="**bold**", idempotency_key="u", chat_id="oc_1", tone=Tone.ANSWER)
    assert (await channel(client).send(message)).message_id == "om_2"
    assert [(sent["type"], sent["uuid"]) for sent in client.sent] == [("interactive", "u"), ("text", "u")]


async def test_send_of_a_notice_with_a_heading_that_is_refused_as_a_card_goes_as_text() -> None:
    client = FakeClient(PlatformRefused("card", code=230099), "om_1")
    message = OutboundMessage(text="Nobody runs me.", idempotency_key="u", chat_id="oc_1", title="Echo")
    await channel(client).send(message)
    assert [(sent["type"], sent["text"]) for sent in client.sent] == [
        ("interactive", "Nobody runs me."),
        ("text", "Nobody runs me."),
    ]


async def test_send_of_a_card_whose_result_is_unknown_is_not_sent_as_text() -> None:
    client = FakeClient(PlatformUnavailable("no answer"))
    with pytest.raises(PlatformUnavailable):
        await channel(client).send(
            OutboundMessage(text="**bold**", idempotency_key="u", chat_id="oc_1", tone=Tone.ANSWER)
        )
    assert len(client.sent) == 1


async def test_send_of_a_card_as_a_reply_finds_its_way_to_the_chat_as_text() -> None:
    client = FakeClient(
        PlatformRefused("gone", code=230011),
        PlatformRefused("card", code=230099),
        PlatformRefused("gone", code=230011),
        "om_4",
    )
    message = OutboundMessage(text="**bold**", idempotency_key="u", chat_id="oc_1", reply_to="om_q", tone=Tone.ANSWER)
    assert (await channel(client).send(message)).message_id == "om_4"
    assert [sent["type"] for sent in client.sent] == ["interactive", "interactive", "text", "text"]


def test_capabilities_are_what_is_implemented() -> None:
    able = Capability.TEXT | Capability.RICH_CARD | Capability.THREAD_REPLY | Capability.QUOTE_REPLY
    received = Capability.ATTACHMENT | Capability.VOICE
    assert channel().capabilities == able | received | Capability.TYPING_INDICATOR
    assert typing_of(channel()) is not None


async def test_typing_is_a_reaction_of_the_bot() -> None:
    client = FakeClient("re_1")
    lark = channel(client)
    assert await lark.show_typing("om_1") == "re_1"
    await lark.hide_typing("om_1", "re_1")
    assert client.sent == [
        {"message_id": "om_1", "emoji_type": "Typing"},
        {"message_id": "om_1", "reaction_id": "re_1"},
    ]


@pytest.mark.parametrize("code", [230011, 230110, 231003])
async def test_typing_on_a_message_that_is_gone_went_with_it(code: int) -> None:
    await channel(FakeClient(PlatformRefused("gone", code=code))).hide_typing("om_1", "re_1")


@pytest.mark.parametrize(
    "error",
    [PlatformRefused("no", code=231002), PlatformThrottled("slow", retry_after=1.0), PlatformUnavailable("away")],
)
async def test_typing_that_cannot_be_taken_away_says_so(error: PlatformError) -> None:
    with pytest.raises(type(error)):
        await channel(FakeClient(error)).hide_typing("om_1", "re_1")
    assert channel().type == "feishu"


async def test_run_of_a_bot_stored_without_identity_learns_it_first() -> None:
    group = json.loads(event(text="@_user_1 hi"))
    mention = {"key": "@_user_1", "name": "Ada", "id": {"union_id": "on_bot"}}
    group["event"]["message"] |= {"chat_type": "group", "mentions": [mention]}
    handler = Handler()
    unknown = channel(handler=handler, raw={"app_id": "cli_a", "app_secret": "fake-secret"})
    await unknown.receive(json.dumps(group).encode())
    with trio.fail_after(5), pytest.raises(LinkLost):
        await unknown.run()
    await unknown.receive(json.dumps(group).encode())
    assert [(message.addressed_to_bot, message.text) for message in handler.messages] == [
        (False, "@Ada hi"),
        (True, "hi"),
    ]


async def test_run_connects_although_the_identity_stays_unknown() -> None:
    client = FakeClient()
    client.identity = PlatformUnavailable("away")
    config = ChannelConfig(type="feishu", installation_id=ID, raw={"app_id": "cli_a"}, handler=Handler())
    lonely = LarkChannel(config, client, open_stream=nowhere)  # type: ignore[arg-type]
    with trio.fail_after(5), pytest.raises(LinkLost, match="the platform is away"):
        await lonely.run()
    assert config.health.state is ConnectionState.CONNECTING
    assert "away" in config.health.detail


async def test_run_for_http_events_holds_no_link() -> None:
    raw = RAW | {"event_mode": "http"}
    config = ChannelConfig(type="feishu", installation_id=ID, raw=raw, handler=Handler())
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(LarkChannel(config, FakeClient(), open_stream=nowhere).run)  # type: ignore[arg-type]
            assert config.health.state is ConnectionState.HTTP
            nursery.cancel_scope.cancel()


async def test_factory_builds_a_channel_and_refuses_one_without_credentials() -> None:
    async with HttpClient() as http:
        build = lark_factory(LarkClients(http), open_stream=nowhere)
        config = ChannelConfig(type="feishu", installation_id=ID, raw=RAW, handler=Handler())
        assert build(config).type == "feishu"
        with pytest.raises(LinkRefused, match="app secret"):
            build(ChannelConfig(type="feishu", installation_id=ID, raw={"app_id": "cli_a"}, handler=Handler()))
