"""Events over HTTP: a posted event is verified here, and is then handled like an event of a long connection.

Any replica may take a posted event, whichever process holds the lease of the installation. The claim of a message makes
sure that it is handled once. The lease only decides which process sends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import structlog
import trio

from gateway.channel.channel import InboundHandler
from gateway.channel.errors import PlatformError
from gateway.channel.push import PushStore, PushTarget
from gateway.concurrency import Signal, reached
from gateway.errors import Conflict, Invalid, NotFound, StoreError, Unauthenticated, Unavailable, Unsettled
from gateway.keyring import KeyRing, UnreadableSecret, open_config
from gateway.lark.api.client import BotIdentity
from gateway.lark.api.clients import LarkClients
from gateway.lark.chat.callback import CallbackSecrets, Challenge, Event, Judgement, Reason, judge
from gateway.lark.chat.channel import receive_event
from gateway.lark.chat.content import CHANNEL_TYPE, order_key
from gateway.lark.wire.session import REDELIVER, SETTLED
from gateway.recorder import SILENT, Recorder

_log = structlog.get_logger()

JUDGED_HERE_BYTES_MAX = 65_536
HEARD_EVERY_SECONDS = 5.0
"""The interval at which the times of the last events are stored."""
HEARD_STORE_SECONDS = 5.0
CHAT_WAITING_MAX = 64
"""The most events of one chat that wait for their turn, each an open request. Others are to be sent again."""
IDENTIFY_SECONDS = 1.5
"""The longest wait of an event for its bot's identity: the platform wants an answer within three seconds."""
IDENTIFY_AGAIN_SECONDS = 60.0

_REFUSALS: dict[Reason, tuple[type[Invalid] | type[Unauthenticated], str, str]] = {
    Reason.UNVERIFIED: (
        Unauthenticated,
        "bad_signature",
        "the body is not signed with this installation's encrypt key",
    ),
    Reason.STALE: (Unauthenticated, "stale_timestamp", "the signature's timestamp is more than five minutes off"),
    Reason.WRONG_TOKEN: (
        Unauthenticated,
        "bad_token",
        "the body does not carry this installation's verification token",
    ),
    Reason.UNREADABLE: (Invalid, "invalid_body", "the body is not an event in JSON"),
}

LearnBot = Callable[[UUID, Mapping[str, Any]], Awaitable[BotIdentity]]
"""(installation, its opened config) → the bot; an empty identity if it cannot be learnt now. Raises nothing."""


class PushedEvents:
    """Takes posted events; `run` stores the times at which they came. The caller owns what it passes in."""

    def __init__(
        self,
        store: PushStore,
        ring: KeyRing | None,
        handler: InboundHandler,
        learn_bot: LearnBot,
        *,
        recorder: Recorder = SILENT,
    ) -> None:
        """Without `ring` no secret can be opened, and all events are refused."""
        self._store = store
        self._ring = ring
        self._handler = handler
        self._learn_bot = learn_bot
        self._recorder = recorder
        self._turns = _Turns()
        self._heard: set[UUID] = set()
        self._asked_again: set[UUID] = set()
        self._news = Signal()

    async def take(self, installation_id: UUID, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        """Implements gateway.channel.push.TakePushed.

        A cancelled call either gives the message's claim back or has made its outcome durable; a redelivery is safe in
        both cases.
        """
        received_at = trio.current_time()
        target = await self._find(installation_id)
        opened = self._open(target)
        secrets = CallbackSecrets(*(str(opened.get(name) or "") for name in ("encrypt_key", "verification_token")))
        match await _judge(headers, body, secrets, target.now):
            case Challenge(text):
                _log.info("lark_callback_verified", installation_id=str(target.id))
                return {"challenge": text}
            case Event(payload):
                return await self._settle(target, opened, payload, received_at)
            case refused:
                error, code, words = _REFUSALS[refused.reason]
                _log.warning("lark_callback_refused", installation_id=str(target.id), reason=str(refused.reason))
                raise error(code, words)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Store the times of events until cancelled. One statement stores many times; nothing waits for it."""
        task_status.started()
        while True:
            await self._news.wait()
            heard, self._heard = self._heard, set()
            asked_again, self._asked_again = self._asked_again, set()
            try:
                with trio.fail_after(HEARD_STORE_SECONDS):
                    await self._store.heard(heard | asked_again, asked_again)
            except (StoreError, trio.TooSlowError) as error:
                # Kept for the next turn: the fault that keeps an event from being settled often keeps this from being
                # stored, too.
                self._asked_again |= asked_again
                _log.warning("last_event_not_stored", installations=len(heard), error=type(error).__name__)
            await trio.sleep(HEARD_EVERY_SECONDS)

    async def _find(self, installation_id: UUID) -> PushTarget:
        target = await self._store.find(installation_id)
        if target is None or target.channel_type != CHANNEL_TYPE:
            raise NotFound("not_found", "there is no such installation")
        if target.config.get("event_mode") != "http":
            # NotFound would hide the reason. The id can be known only from the console into which an operator put it.
            words = "the installation takes its events over the long connection; add it again with --event-mode http"
            raise Conflict("not_in_http_mode", words)
        return target

    def _open(self, target: PushTarget) -> dict[str, Any]:
        if self._ring is None:
            raise Unavailable("lark_off", "Lark is off on this server: secret_key is unset")
        try:
            return open_config(target.config, self._ring, target.id)
        except UnreadableSecret as error:
            _log.warning("secret_unreadable", installation_id=str(target.id), error=str(error))
            raise Unavailable("unreadable_secret", "the installation's secrets do not open") from error

    async def _settle(
        self, target: PushTarget, opened: Mapping[str, Any], payload: bytes, received_at: float
    ) -> dict[str, str]:
        reached("lark.pushed")
        self._heard.add(target.id)
        self._news.set()
        code = await self._decide(target, opened, payload)
        seconds = trio.current_time() - received_at
        self._recorder.observe("channel_ack_seconds", seconds, channel=CHANNEL_TYPE, code=str(code))
        if code != SETTLED:
            self._asked_again.add(target.id)
            self._news.set()
            raise Unsettled("redeliver", "the event is not settled; send it again")
        return {"msg": "success"}

    async def _decide(self, target: PushTarget, opened: Mapping[str, Any], payload: bytes) -> int:
        """Return 200 once the outcome of the event is committed, 500 if a redelivery would help."""
        try:
            chat = order_key(payload)
            # An event without a chat has no order, so it gets a turn of its own.
            turn = (target.id, chat) if chat else object()
            if self._turns.waiting(turn) >= CHAT_WAITING_MAX:
                return REDELIVER
            async with self._turns.take(turn):
                return await receive_event(
                    payload,
                    app_id=str(opened.get("app_id", "")),
                    bot=await self._learn_bot(target.id, opened),
                    installation_id=target.id,
                    handler=self._handler,
                )
        except StoreError as error:
            _log.warning("lark_push_not_stored", installation_id=str(target.id), error=type(error).__name__)
        except Exception:
            self._recorder.count("unexpected_errors", unit="frame")
            _log.exception("event_failed", installation_id=str(target.id))
        return REDELIVER


async def _judge(headers: Mapping[str, str], body: bytes, secrets: CallbackSecrets, now: datetime) -> Judgement:
    """Judge a body; a large one in a thread.

    Any stranger may post here, and it takes milliseconds to hash and decrypt a large body.
    """
    if len(body) <= JUDGED_HERE_BYTES_MAX:
        return judge(headers, body, secrets, now=now)
    return await trio.to_thread.run_sync(partial(judge, headers, body, secrets, now=now))


class Bots:
    """The identities of bots. Rows that were stored while the platform was unavailable lack them."""

    def __init__(self, clients: LarkClients) -> None:
        self._clients = clients
        self._known: dict[tuple[UUID, str], BotIdentity] = {}
        self._ask_again_at: dict[tuple[UUID, str], float] = {}
        self._turns = _Turns()

    async def learn(self, installation_id: UUID, opened: Mapping[str, Any]) -> BotIdentity:
        """Implements LearnBot: return the stored identity, else ask the platform, once a minute until it answers.

        Without its identity a bot receives private messages only, which is better than no messages.
        """
        if opened.get("bot_open_id"):
            return BotIdentity(opened["bot_open_id"], opened.get("bot_union_id", ""))
        key = (installation_id, str(opened.get("app_id")))
        async with self._turns.take(key):
            if key not in self._known and trio.current_time() >= self._ask_again_at.get(key, 0):
                with trio.move_on_after(IDENTIFY_SECONDS):
                    await self._ask(key, opened)
                self._ask_again_at[key] = trio.current_time() + IDENTIFY_AGAIN_SECONDS
        return self._known.get(key, BotIdentity(""))

    async def _ask(self, key: tuple[UUID, str], opened: Mapping[str, Any]) -> None:
        try:
            self._known[key] = await self._clients.of(key[1], opened["app_secret"], opened.get("region")).identify()
        except (PlatformError, KeyError) as error:
            _log.warning("lark_bot_unknown", installation_id=str(key[0]), error=str(error))


class _Turns:
    """Lets tasks with the same key run one at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._lines: dict[object, trio.Lock] = {}

    def waiting(self, key: object) -> int:
        """Return the number of tasks that wait for their turn."""
        line = self._lines.get(key)
        return 0 if line is None else line.statistics().tasks_waiting

    @asynccontextmanager
    async def take(self, key: object) -> AsyncIterator[None]:
        line = self._lines.setdefault(key, trio.Lock())
        try:
            async with line:
                yield
        finally:
            if not line.locked():
                self._lines.pop(key, None)
