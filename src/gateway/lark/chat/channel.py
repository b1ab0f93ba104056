"""A Lark bot as a channel: it receives over its long connection and sends over its REST client."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import structlog
import trio

from gateway.channel.capability import Capability
from gateway.channel.channel import (
    ChannelConfig,
    ChannelFactory,
    ConnectionState,
    InboundHandler,
    LinkRefused,
    Verdict,
)
from gateway.channel.errors import PlatformError, PlatformRefused
from gateway.channel.message import OutboundMessage, SendResult, Tone
from gateway.core.pacing import CallLimits, Limit
from gateway.errors import RemoteProtocolError
from gateway.lark.api.client import BotIdentity, LarkClient
from gateway.lark.api.clients import LarkClients
from gateway.lark.chat.cards import (
    Rendered,
    render_answer,
    render_error,
    render_notice,
    render_question,
    render_text,
    without_calls_to_all,
)
from gateway.lark.chat.connection import ConnectionSettings, OpenStream, run_connection
from gateway.lark.chat.content import CHANNEL_TYPE, decode_event, order_key
from gateway.lark.chat.read_back import find_sent
from gateway.lark.chat.untrusted import text_in
from gateway.lark.wire.session import REDELIVER, SETTLED
from gateway.recorder import SILENT, Recorder

_log = structlog.get_logger()

# The reply alone was definitely refused: the quoted message or its topic is gone, hidden, or takes no replies. The chat
# itself may still accept the words. Codes of a throttle or of an unknown result must never stand here: after an
# unknown result a second message could be a duplicate.
_REPLY_IMPOSSIBLE = frozenset({230011, 230019, 230050, 230071, 230072, 230110, 230111, 231003})

_TYPING_EMOJI = "Typing"
# The message is recalled, deleted or unknown, and its reactions are gone with it.
_MESSAGE_GONE = frozenset({230011, 230110, 231003})
# The card was definitely refused: it could not be built, is too long, or has too many tables.
_CARD_IMPOSSIBLE = frozenset({230025, 230099})


TITLES = {"en": "Lark", "zh-Hans": "飞书"}
CAPABILITIES = (
    Capability.TEXT
    | Capability.RICH_CARD
    | Capability.THREAD_REPLY
    | Capability.QUOTE_REPLY
    | Capability.ATTACHMENT
    | Capability.VOICE
    | Capability.TYPING_INDICATOR
)
IDENTITY_KEYS = ("app_id", "bot_open_id", "region", "event_mode")
"""The config keys that need a new link when they change.

The bot's union id is left out: it follows from the other ids, and is filled in later on live bots.
"""


LIMITS = CallLimits(app=(Limit(50, 1.0), Limit(1000, 60.0)), chat=(Limit(5, 1.0),))
"""The platform's documented limits for sending messages, by app and by chat."""
QUICK_CHARS_MAX = 1_000
"""An answer up to this length is parsed in about a millisecond."""
KEY_SECONDS = 3600.0
"""The platform drops a message with a `uuid` that it saw within the last hour."""


class LarkChannel:
    """Implements gateway.channel.channel.Channel for one installation, and Typing and ReadBack too.

    The caller owns what it passes in.
    """

    def __init__(
        self,
        config: ChannelConfig,
        client: LarkClient,
        *,
        open_stream: OpenStream,
        settings: ConnectionSettings | None = None,
        recorder: Recorder = SILENT,
    ) -> None:
        self._config = config
        self._client = client
        self._open_stream = open_stream
        self._settings = settings
        self._recorder = recorder
        self._app_id: str = config.raw["app_id"]
        self._may_call_all = config.raw.get("allow_mention_all") is True
        self._bot = BotIdentity(config.raw.get("bot_open_id", ""), config.raw.get("bot_union_id", ""))

    @property
    def type(self) -> str:
        return CHANNEL_TYPE

    @property
    def capabilities(self) -> Capability:
        return CAPABILITIES

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See Channel.run. An installation that was stored without its bot's identity asks for it first.

        With events over HTTP there is no link. Then this only waits, while the lease gives the right to send.
        """
        if not self._bot.open_id:
            await self._learn_bot()
        if self._config.raw.get("event_mode") == "http":
            self._config.health.state = ConnectionState.HTTP
            task_status.started()
            await trio.sleep_forever()
        await run_connection(
            fetch_endpoint=self._client.fetch_endpoint,
            open_stream=self._open_stream,
            on_event=self.receive,
            order_key=order_key,
            fence=self._config.fence,
            health=self._config.health,
            settings=self._settings,
            recorder=self._recorder,
            task_status=task_status,
        )

    async def receive(self, payload: bytes) -> int:
        """Decide one event and return the code to acknowledge it with; see `receive_event`."""
        return await receive_event(
            payload,
            app_id=self._app_id,
            bot=self._bot,
            installation_id=self._config.installation_id,
            handler=self._config.handler,
        )

    async def send(self, message: OutboundMessage) -> SendResult:
        """See Channel.send; also raises LocalProtocolError for an empty text or recipient.

        If the quoted message cannot be replied to any more, the message goes to the chat instead. A message for a topic
        never leaves it: the topic's first message is replied to, or the error is raised. If the platform refuses the
        card, the words go as text. All of this happens only after a definite no, and with the same key.
        """
        if not self._may_call_all:
            message = replace(message, text=without_calls_to_all(message.text))
        rendered = await _rendered(message)
        try:
            return await self._send_where_possible(message, rendered)
        except PlatformRefused as error:
            if rendered.type == "text" or error.code not in _CARD_IMPOSSIBLE:
                raise
            _log.info("lark_card_goes_as_text", installation_id=str(self._config.installation_id), code=error.code)
        return await self._send_where_possible(message, render_text(message.text))

    async def _send_where_possible(self, message: OutboundMessage, rendered: Rendered) -> SendResult:
        """Send as a reply; if that is impossible, to the first message of the topic, or to the chat outside a topic.

        Raises the refusal of the reply if the topic has no other message to reply to.
        """
        refusal: PlatformRefused | None = None
        if message.reply_to:
            try:
                return await self._send(message, rendered, reply_to=message.reply_to)
            except PlatformRefused as error:
                if error.code not in _REPLY_IMPOSSIBLE or not message.chat_id:
                    raise
                refusal = error
        elif not message.thread_id:
            return await self._send(message, rendered)
        root = await self._root_of(message) if message.thread_id else ""
        if message.thread_id and root in {"", message.reply_to}:
            raise refusal or PlatformRefused("no message of the topic can be replied to")
        _log.info("lark_reply_moved", installation_id=str(self._config.installation_id), to="topic" if root else "chat")
        return await self._send(message, rendered, reply_to=root)

    async def _root_of(self, message: OutboundMessage) -> str:
        """Return the id of the first message of a topic; "" if the platform does not tell. Raises as `send` does.

        Every message of a topic names it, so any one that the platform lists will do.
        """
        page = await self._client.list_messages(chat_id=message.chat_id, thread_id=message.thread_id)
        items = [item for item in page.items if isinstance(item, dict)]
        roots = (text_in(item, "root_id") or text_in(item, "message_id") for item in items)
        return next((root for root in roots if root), "")

    async def find_sent(self, message: OutboundMessage, *, since: datetime, known: Collection[str]) -> str | None:
        """See ReadBack.find_sent."""
        return await find_sent(self._client, message, await _rendered(message), since=since, known=known)

    async def show_typing(self, message_id: str) -> str:
        """See Typing.show_typing. The sign is a reaction of the bot, which everyone in the chat sees."""
        return await self._client.react(message_id, _TYPING_EMOJI)

    async def hide_typing(self, message_id: str, handle: str) -> None:
        """See Typing.hide_typing."""
        try:
            await self._client.unreact(message_id, handle)
        except PlatformRefused as error:
            if error.code not in _MESSAGE_GONE:
                raise

    async def _send(self, message: OutboundMessage, rendered: Rendered, *, reply_to: str = "") -> SendResult:
        message_id = await self._client.send(
            rendered,
            uuid=message.idempotency_key,
            chat_id=message.chat_id,
            open_id=message.user_id,
            reply_to=reply_to,
            in_thread=bool(message.thread_id),
        )
        return SendResult(message_id)

    async def _learn_bot(self) -> None:
        """Ask the platform for the bot's identity.

        A failure is only logged: without its identity a bot still receives private messages.
        """
        try:
            self._bot = await self._client.identify()
        except PlatformError as error:
            installation_id = str(self._config.installation_id)
            _log.warning("lark_bot_unknown", installation_id=installation_id, code=error.code, error=str(error))


async def receive_event(
    payload: bytes, *, app_id: str, bot: BotIdentity, installation_id: UUID, handler: InboundHandler
) -> int:
    """Decide one event of an app, from either transport, and return the code to acknowledge it with.

    200 is also the code for events that are unwanted or unreadable, because redelivery would not change them. 500 asks
    for redelivery. A message of another app, or without its ids, goes to the handler with a `problem`: it is recorded
    for this installation and dropped. Raises what the handler raises; the caller treats that as 500.
    """
    try:
        message = decode_event(payload, bot_open_id=bot.open_id, bot_union_id=bot.union_id)
    except RemoteProtocolError as error:
        _log.warning("lark_event_unreadable", installation_id=str(installation_id), error=str(error))
        return SETTLED
    if message is None:
        return SETTLED
    if message.app_id not in {"", app_id} and not message.problem:
        message = replace(message, problem="an event of another app")
    if message.problem:
        ids = {"installation_id": str(installation_id), "event_id": message.event_id}
        _log.warning("lark_event_unusable", **ids, problem=message.problem)
    if message.app_id != app_id:
        # The link, or the address that the event was posted to, says whose event it is. The event itself could claim to
        # be any bot's.
        message = replace(message, app_id=app_id)
    verdict = await handler(message)
    return SETTLED if verdict is Verdict.SETTLED else REDELIVER


def lark_factory(
    clients: LarkClients,
    *,
    open_stream: OpenStream,
    settings: ConnectionSettings | None = None,
    recorder: Recorder = SILENT,
) -> ChannelFactory:
    """Return the factory for `feishu`. Channels of one app share its client with all other users of `clients`.

    The factory raises LinkRefused for an installation without credentials.
    """

    def build(config: ChannelConfig) -> LarkChannel:
        app_id, app_secret = config.raw.get("app_id"), config.raw.get("app_secret")
        if not app_id or not app_secret:
            raise LinkRefused(0, "the installation has no app id or no app secret; add it again")
        client = clients.of(app_id, app_secret, config.raw.get("region"))
        return LarkChannel(config, client, open_stream=open_stream, settings=settings, recorder=recorder)

    return build


async def _rendered(message: OutboundMessage) -> Rendered:
    """Render a message; a long one in a thread, because parsing Markdown takes milliseconds."""
    if len(message.text) <= QUICK_CHARS_MAX:
        return _render(message)
    return await trio.to_thread.run_sync(_render, message)


def _render(message: OutboundMessage) -> Rendered:
    if message.button is not None:
        return render_question(message.text, message.button)
    match message.tone:
        case Tone.ANSWER:
            return render_answer(message.text)
        case Tone.ERROR:
            return render_error(message.text)
        case Tone.NOTICE if message.title:
            return render_notice(message.text, message.title)
        case Tone.NOTICE:
            return render_text(message.text)
