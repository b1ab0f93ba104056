"""The client and the channel against the simulated platform, which the official SDKs are run against as well."""

import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
import trio

from gateway.channel.channel import ChannelConfig, ConnectionState, LinkRefused, Verdict
from gateway.channel.errors import (
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
    PlatformUnreachable,
)
from gateway.channel.message import ChatType, InboundMessage, OutboundMessage, Tone
from gateway.lark.api.client import HttpClient, LarkClient, open_http_client
from gateway.lark.api.clients import LarkClients
from gateway.lark.chat.cards import render_text
from gateway.lark.chat.channel import LarkChannel, lark_factory
from gateway.lark.chat.connection import open_tcp_link
from gateway.simulator import Simulator, open_simulator
from gateway.simulator.delivery import PushPlan
from gateway.simulator.platform import App
from gateway.simulator.simulator import Utterance

SEND_PATH = "/open-apis/im/v1/messages"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    with trio.fail_after(30):
        async with open_simulator() as simulator:
            yield simulator


@pytest.fixture
def app(simulator: Simulator) -> App:
    return simulator.create_app("Ada")


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with open_http_client() as http:
        yield http


@pytest.fixture
def client(simulator: Simulator, app: App, http: HttpClient) -> LarkClient:
    return LarkClient(app.app_id, app.secret, simulator.base_url, http)


def config_of(app: App, heard: list[InboundMessage], *, secret: str = "") -> ChannelConfig:
    async def hear(message: InboundMessage) -> Verdict:
        heard.append(message)
        return Verdict.SETTLED

    raw = {
        "app_id": app.app_id,
        "app_secret": secret or app.secret,
        "bot_open_id": app.open_id,
        "bot_union_id": app.union_id,
    }
    return ChannelConfig(type="feishu", installation_id=UUID(int=1), raw=raw, handler=hear)


def channel_on(simulator: Simulator, http: HttpClient, config: ChannelConfig) -> LarkChannel:
    dial = partial(open_tcp_link, ssl_context=ssl.create_default_context())
    channel = lark_factory(LarkClients(http, open_base_override=simulator.base_url), open_stream=dial)(config)
    assert isinstance(channel, LarkChannel)
    return channel


async def test_identify_knows_the_bot(client: LarkClient, app: App) -> None:
    bot = await client.identify()
    assert (bot.open_id, bot.union_id) == (app.open_id, app.union_id)


async def test_wrong_credentials_are_unauthorized(simulator: Simulator, app: App, http: HttpClient) -> None:
    for app_id, secret in ((app.app_id, "fake-wrong"), ("cli_0000000000000000", app.secret)):
        with pytest.raises(PlatformUnauthorized):
            await LarkClient(app_id, secret, simulator.base_url, http).identify()


async def test_revoked_token_costs_one_repeat_and_no_error(simulator: Simulator, client: LarkClient, app: App) -> None:
    chat = simulator.direct_chat(simulator.create_person("Eve"), app)
    await client.send(render_text("one"), uuid="u-1", chat_id=chat.chat_id)
    simulator.revoke_tokens(app)
    await client.send(render_text("two"), uuid="u-2", chat_id=chat.chat_id)
    assert [message.text for message in simulator.sent(chat)] == ["one", "two"]


async def test_send_again_after_a_lost_answer_is_one_message(
    simulator: Simulator, client: LarkClient, app: App
) -> None:
    chat = simulator.direct_chat(simulator.create_person("Eve"), app)
    simulator.fail_next(SEND_PATH, lose_answer=True)
    with pytest.raises(PlatformUnavailable):
        await client.send(render_text("once"), uuid="u-1", chat_id=chat.chat_id)
    sent = await client.send(render_text("once"), uuid="u-1", chat_id=chat.chat_id)
    assert [message.message_id for message in simulator.sent(chat)] == [sent]


async def test_typing_shows_on_a_message_once_and_goes(
    simulator: Simulator, http: HttpClient, client: LarkClient, app: App
) -> None:
    said = simulator.say(simulator.create_person("Eve"), app, "hello")
    channel = channel_on(simulator, http, config_of(app, []))
    handle = await channel.show_typing(said.message.message_id)
    assert await channel.show_typing(said.message.message_id) == handle
    assert [emoji for _, emoji in said.message.reactions.values()] == ["Typing"]
    await channel.hide_typing(said.message.message_id, handle)
    assert said.message.reactions == {}
    with pytest.raises(PlatformRefused):
        await client.unreact(said.message.message_id, handle)


async def test_send_to_a_stranger_chat_is_refused(client: LarkClient) -> None:
    with pytest.raises(PlatformRefused):
        await client.send(render_text("hi"), uuid="u-1", chat_id="oc_00000000000000000000000000000000")


async def test_send_beyond_the_rate_is_throttled(simulator: Simulator, client: LarkClient, app: App) -> None:
    chat = simulator.direct_chat(simulator.create_person("Eve"), app)
    throttled: list[PlatformThrottled] = []

    async def send(number: int) -> None:
        try:
            await client.send(render_text("hi"), uuid=f"u-{number}", chat_id=chat.chat_id)
        except PlatformThrottled as error:
            throttled.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(send, number)
    assert throttled
    assert all(0 < error.retry_after <= 60 for error in throttled)


async def test_channel_hears_a_mention_and_answers_it(simulator: Simulator, app: App, http: HttpClient) -> None:
    eve = simulator.create_person("Eve")
    group = simulator.create_group("Team", [app], [eve])
    heard: list[InboundMessage] = []
    config = config_of(app, heard)
    channel = channel_on(simulator, http, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        assert config.health.state is ConnectionState.LIVE
        said = simulator.say(eve, group, Utterance("@Ada ping", plan=PushPlan(3)))
        assert (await said.events[0].settled()).state == "delivered"
        (message,) = heard
        answer = OutboundMessage(
            text="pong", idempotency_key="u-1", chat_id=message.source.chat_id, reply_to=message.message_id
        )
        result = await channel.send(answer)
        nursery.cancel_scope.cancel()
    assert (message.app_id, message.message_id) == (app.app_id, said.message.message_id)
    assert (message.text, message.addressed_to_bot) == ("ping", True)
    assert message.source.chat_type is ChatType.GROUP
    assert [sent.message_id for sent in simulator.sent(group)] == [result.message_id]


async def test_channel_with_a_wrong_secret_is_refused_in_words(
    simulator: Simulator, app: App, http: HttpClient
) -> None:
    config = config_of(app, [], secret="fake-wrong")
    with pytest.raises(LinkRefused):
        await channel_on(simulator, http, config).run()
    assert config.health.state is ConnectionState.REFUSED
    assert "fake-wrong" not in config.health.detail


async def test_message_is_found_in_its_chat_by_what_it_says(simulator: Simulator, app: App, http: HttpClient) -> None:
    person = simulator.create_person("Eve")
    chat = simulator.direct_chat(person, app)
    channel = channel_on(simulator, http, config_of(app, []))
    since = datetime.now(UTC)
    answer = OutboundMessage(text="**done**", idempotency_key="u-1", chat_id=chat.chat_id, tone=Tone.ANSWER)
    plain = OutboundMessage(text="plain words", idempotency_key="u-2", chat_id=chat.chat_id, tone=Tone.ANSWER)
    never = OutboundMessage(text="never sent", idempotency_key="u-3", chat_id=chat.chat_id, tone=Tone.ANSWER)
    card_id, plain_id = (await channel.send(answer)).message_id, (await channel.send(plain)).message_id
    simulator.say(person, chat, "never sent")
    assert await channel.find_sent(answer, since=since, known=()) == card_id
    assert await channel.find_sent(plain, since=since, known=()) == plain_id
    assert await channel.find_sent(plain, since=since, known=[plain_id]) is None
    assert await channel.find_sent(never, since=since, known=[card_id]) is None
    assert await channel.find_sent(plain, since=since - timedelta(hours=3), known=()) is None


@pytest.mark.parametrize("tone", [Tone.ERROR, Tone.ANSWER, Tone.NOTICE])
async def test_message_of_any_look_is_found(simulator: Simulator, app: App, http: HttpClient, tone: Tone) -> None:
    """A card shows more than its words: the sign of an error stands above them."""
    chat = simulator.direct_chat(simulator.create_person("Eve"), app)
    channel = channel_on(simulator, http, config_of(app, []))
    message = OutboundMessage(text="**it** failed", idempotency_key="u-1", chat_id=chat.chat_id, tone=tone)
    since = datetime.now(UTC)
    sent = (await channel.send(message)).message_id
    assert await channel.find_sent(message, since=since, known=()) == sent


async def test_card_that_went_as_text_is_found(simulator: Simulator, app: App, http: HttpClient) -> None:
    chat = simulator.direct_chat(simulator.create_person("Eve"), app)
    channel = channel_on(simulator, http, config_of(app, []))
    simulator.fail_next(SEND_PATH, code=230099)
    message = OutboundMessage(text="**done**", idempotency_key="u-1", chat_id=chat.chat_id, tone=Tone.ANSWER)
    since = datetime.now(UTC)
    sent = (await channel.send(message)).message_id
    assert await channel.find_sent(message, since=since, known=()) == sent


@pytest.mark.parametrize(
    ("text", "listed"), [("**done**", "please upgrade"), ("hi <at user_id='ou_1'></at>", "hi @Eve")]
)
async def test_message_that_is_listed_in_other_words_counts_unless_it_is_explained(
    simulator: Simulator, app: App, http: HttpClient, text: str, listed: str
) -> None:
    chat = simulator.direct_chat(simulator.create_person("Eve"), app)
    channel = channel_on(simulator, http, config_of(app, []))
    message = OutboundMessage(text=text, idempotency_key="u-1", chat_id=chat.chat_id, tone=Tone.ANSWER)
    since = datetime.now(UTC)
    sent = (await channel.send(message)).message_id
    (stored,) = simulator.sent(chat)
    stored.content = stored.content.replace(text, listed)
    assert await channel.find_sent(message, since=since, known=()) == sent
    assert await channel.find_sent(message, since=since, known=[sent]) is None


async def test_message_that_was_recalled_since_is_not_sent_again(
    simulator: Simulator, app: App, http: HttpClient
) -> None:
    chat = simulator.direct_chat(simulator.create_person("Eve"), app)
    channel = channel_on(simulator, http, config_of(app, []))
    message = OutboundMessage(text="hello", idempotency_key="u-1", chat_id=chat.chat_id, tone=Tone.ANSWER)
    since = datetime.now(UTC)
    sent = (await channel.send(message)).message_id
    simulator.messages.withdraw(sent)
    assert await channel.find_sent(message, since=since, known=()) == sent


async def test_broken_list_does_not_pass_for_an_empty_one(simulator: Simulator, app: App, http: HttpClient) -> None:
    chat = simulator.direct_chat(simulator.create_person("Eve"), app)
    channel = channel_on(simulator, http, config_of(app, []))
    message = OutboundMessage(text="hello", idempotency_key="u-1", chat_id=chat.chat_id, tone=Tone.ANSWER)
    await channel.send(message)
    simulator.fail_next(SEND_PATH, method="GET", body='{"code":0,"msg":"success","data":{}}', status=200)
    with pytest.raises(PlatformUnavailable):
        await channel.find_sent(message, since=datetime.now(UTC), known=())


async def test_token_that_is_refused_twice_leaves_no_doubt(simulator: Simulator, app: App, client: LarkClient) -> None:
    chat = simulator.direct_chat(simulator.create_person("Eve"), app)
    simulator.fail_next(SEND_PATH, times=2, code=99991663)
    with pytest.raises(PlatformUnreachable):
        await client.send(render_text("hello"), uuid="u-1", chat_id=chat.chat_id)
    assert simulator.sent(chat) == []


async def test_message_to_a_person_cannot_be_found(simulator: Simulator, app: App, http: HttpClient) -> None:
    channel = channel_on(simulator, http, config_of(app, []))
    with pytest.raises(PlatformRefused):
        await channel.find_sent(
            OutboundMessage(text="hi", idempotency_key="u", user_id="ou_1"), since=datetime.now(UTC), known=()
        )
