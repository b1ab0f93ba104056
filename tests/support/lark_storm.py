"""The simulated Lark platform without sockets, behind a network that loses, delays and forges what HTTP carries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

import httpx2
import trio

from gateway.channel.channel import Channel, ChannelConfig, Verdict
from gateway.channel.message import InboundMessage
from gateway.lark.api.client import LarkClient
from gateway.lark.chat.channel import LarkChannel
from gateway.lark.chat.connection import RawLink
from gateway.simulator import Simulator
from gateway.simulator.exchange import Answer, Request, json_answer, read_query
from gateway.simulator.messages import Message
from support.chaotic_platform import HANG_SECONDS_MAX, Seen
from support.outbox_cluster import OutboxNode
from support.simulated import EPOCH

HTML = b"<html><body>502 Bad Gateway</body></html>"
CURSED = "| cursed | table |\n|---|---|\n| never | drawn |"
"""A card with this is refused by the platform, in whatever chat."""


def _coded(status: int, code: int, msg: str = "simulated", **headers: str) -> Answer:
    return json_answer({"code": code, "msg": msg, "error": {"log_id": "x"}}, status=status, headers=(*headers.items(),))


def _html(status: int) -> Answer:
    return Answer(status, HTML, (("content-type", "text/html"),))


RESET_2 = {"x-ogw-ratelimit-reset": "2", "x-ogw-ratelimit-limit": "50"}
INSTEAD: dict[str, Answer] = {
    "429": _coded(429, 99991400, "request trigger frequency limit", **RESET_2),
    "400 throttled": _coded(400, 99991400, "request trigger frequency limit"),
    "chat throttled": _coded(400, 230020, "the chat is too busy", **RESET_2),
    "token invalid": _coded(400, 99991663, "Invalid access token"),
    "token invalid 401": _coded(401, 99991663, "Invalid access token"),
    "app refused": _coded(400, 99991543, "app id or secret wrong"),
    "502": _html(502),
    "500": _coded(500, 2200, "internal error"),
    "being sent": _coded(400, 230049, "the message is being sent"),
    "sending is off": _coded(400, 230101, "temporarily unavailable"),
}
"""What comes instead of doing it."""
AFTERWARDS: dict[str, Answer] = {
    "502 after": _html(502),
    "504 after": _html(504),
    "500 after": _coded(500, 2200, "internal error"),
    "being sent after": _coded(400, 230049, "the message is being sent"),
    "garbage after": Answer(200, b'{"code":0,"msg":"succ', (("content-type", "application/json"),)),
    "nameless after": _coded(200, 0, "success"),
}
"""What is said although it was done."""
CUT = ("no connection", "reset", "reset after", "silent after", "late", "late and reset", "tokens revoked")
FATES = (*INSTEAD, *AFTERWARDS, *CUT)


@dataclass(slots=True, eq=False)
class _Exchange:
    request: Request
    fate: str
    done: trio.Event = field(default_factory=trio.Event)
    outcome: Answer | Exception | None = None


class LarkStorm:
    """What `Simulator` does with the calls that reach it; see StagedPlatform. Its chats are given out by `chats`."""

    def __init__(self, rng: Random, network: trio.Nursery) -> None:
        self.sim = Simulator(rate_limits=False, seed=0)
        self.started_at = EPOCH.timestamp() + trio.current_time()
        self.sim.clock._epoch = self.started_at
        self.app = self.sim.create_app("Echo")
        self.people = [self.sim.create_person(name) for name in ("Ada", "Bob", "Cyd")]
        for person in self.people:
            self.sim.direct_chat(person, self.app)
        self.sim.create_group("Team", [self.app], self.people)
        self.storm = 0.0
        self.away = False
        self.barred: set[str] = set()
        self._put_out: set[str] = set()
        self.unreadable: set[str] = set()
        self.said_no: set[str] = set()
        self.faults: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()
        self._staged_breaches: list[str] = []
        self._rng = rng
        self._network = network

    @property
    def chats(self) -> list[str]:
        return list(self.sim.platform.chats)

    # -- what people see

    @property
    def seen(self) -> Sequence[Seen]:
        return [_seen(message) for chat in self.chats for message in self.sim.sent(chat)]

    def with_key(self, key: str) -> Sequence[Seen]:
        return [seen for seen in self.seen if seen.key == key]

    @property
    def breaches(self) -> list[str]:
        times = Counter(seen.key for seen in self.seen)
        return [f"{seen.text!r} is seen {times[seen.key]} times" for seen in self.seen if times[seen.key] > 1]

    # -- what daemons get

    def channel(self, daemon: OutboxNode) -> Channel:
        http = httpx2.AsyncClient(transport=_Storm(self, daemon), trust_env=False, timeout=None)
        client = LarkClient(self.app.app_id, self.app.secret, "http://lark.invalid", http)
        raw = {"app_id": self.app.app_id, "app_secret": self.app.secret, "bot_open_id": self.app.open_id}
        config = ChannelConfig(type="feishu", installation_id=UUID(int=1), raw=raw, handler=_settled)
        return LarkChannel(config, client, open_stream=_no_stream)

    async def exchange(self, request: Request) -> Answer:
        """One call; it is worked on although its caller gives up. Raises what httpx2 raises."""
        fate = self._rng.choice(FATES) if self._rng.random() < self.storm else "fine"
        self.fates[fate] += 1
        if fate == "no connection":
            await self._travel()
            raise httpx2.ConnectError("connection refused")
        exchange = _Exchange(request, fate)
        self._network.start_soon(self._work, exchange)
        await exchange.done.wait()
        if isinstance(exchange.outcome, Exception):
            raise exchange.outcome
        assert exchange.outcome is not None
        return exchange.outcome

    async def _work(self, exchange: _Exchange) -> None:
        await self._travel()
        if self.away:
            return
        outcome = await self._outcome(exchange)
        await self._travel()
        if outcome is not None:
            exchange.outcome = outcome
            exchange.done.set()

    async def _outcome(self, exchange: _Exchange) -> Answer | Exception | None:
        """None: nobody is ever told."""
        fate = exchange.fate
        if fate in INSTEAD:
            return INSTEAD[fate]
        if fate == "reset":
            return httpx2.ReadError("reset")
        if fate == "tokens revoked":
            self.sim.revoke_tokens(self.app)
        if fate.startswith("late"):
            await trio.sleep(self._rng.uniform(0, HANG_SECONDS_MAX))
        answer = await self._do(exchange.request)
        if fate in {"reset after", "late and reset"}:
            return httpx2.ReadError("reset")
        return None if fate == "silent after" else AFTERWARDS.get(fate, answer)

    async def _do(self, request: Request) -> Answer:
        if self.barred != self._put_out:
            for chat in self.sim.platform.chats.values():
                chat.app_ids[:] = [] if chat.chat_id in self.barred else [self.app.app_id]
            self._put_out = set(self.barred)
        answer = self._staged(request) or await self.sim.respond(request)
        # An answer to a topic never leaves it: when the message that it answers is withdrawn, it may fail.
        refusals = {230002, 230011, 230099} if _in_topic(request) else {230002, 230099}
        if request.method == "POST" and answer.code in refusals:
            self.said_no.add(request.document()["uuid"])
        return answer

    def _staged(self, request: Request) -> Answer | None:
        if request.method == "POST" and b'"interactive"' in request.body and b"cursed" in request.body:
            return _coded(400, 230099, "Failed to create card content, ext=ErrCode: 11310")
        if request.method == "GET" and request.argument("container_id") in self.unreadable:
            return _coded(400, 230027, "Lack of necessary permissions")
        return None

    async def _travel(self) -> None:
        await trio.sleep(self._rng.choice([0.001, 0.01, 0.05, 0.3]))


@dataclass(slots=True)
class _Storm(httpx2.AsyncBaseTransport):
    """The network as one daemon has it."""

    storm: LarkStorm
    daemon: OutboxNode

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await self.daemon.alive()
        url = request.url
        body = b"".join([chunk async for chunk in request.stream])  # type: ignore[union-attr]
        asked = Request(request.method, url.path, read_query(url.query.decode()), dict(request.headers), body)
        answer = await self.storm.exchange(asked)
        await self.daemon.alive()
        return httpx2.Response(answer.status, headers=list(answer.headers), stream=httpx2.ByteStream(answer.body))


def _in_topic(request: Request) -> bool:
    return request.method == "POST" and request.document().get("reply_in_thread") is True


def _seen(message: Message) -> Seen:
    at = message.create_time / 1000 - EPOCH.timestamp()
    return Seen(message.message_id, message.chat_id, json.dumps(message.document), message.uuid, at)


async def _settled(_message: InboundMessage) -> Verdict:
    return Verdict.SETTLED


async def _no_stream(*_: object) -> RawLink:
    raise AssertionError("nobody listens here")
