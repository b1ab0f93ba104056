"""What becomes of a message in each situation, by cases: its outcome, its claim, and what is written."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gateway.channel.message import InboundMessage
from gateway.errors import StoreUnavailable
from gateway.inbound.ports import MessageClaim, UserMessage
from support.inbound_backend import Bot, direct, grouped, open_pipeline
from support.inbound_memory import MemoryInbound

CASES = json.loads((Path(__file__).parent / "cases" / "dispatch_outcome.json").read_text())


class Delivery:
    """A store with one bot and one person, and the message that is about to come."""

    def __init__(self) -> None:
        self.backend = MemoryInbound()
        self.message: InboundMessage = direct()

    async def set(self, *, bound: bool = True, member: bool = True, **bot: Any) -> Bot:
        self.bot = await self.backend.add_bot(**bot)
        self.person = await self.backend.bind(self.bot, "ou_ann", member=member) if bound else None
        return self.bot

    async def claim(self, age_seconds: float = 0) -> MessageClaim:
        claim = MessageClaim(self.bot.installation_id, "om_1", uuid4())
        await self.backend.claim(claim)
        await self.backend.age_claims(age_seconds)
        return claim

    def breaking(self, owner: Any, step: str) -> None:
        async def away(*_: object) -> Any:
            raise StoreUnavailable("the database is away")

        setattr(owner, step, away)


async def _unknown(delivery: Delivery) -> None:
    await delivery.set(app_id="cli_other")


async def _revoked(delivery: Delivery) -> None:
    await delivery.set(revoked=True)


async def _processed(delivery: Delivery) -> None:
    await delivery.set()
    async with open_pipeline(delivery.backend, fused=False) as pipeline:
        await pipeline.receive(delivery.message)
    delivery.backend.message_rows.clear()


async def _in_flight(delivery: Delivery) -> None:
    await delivery.set()
    await delivery.claim()


async def _stale(delivery: Delivery) -> None:
    await delivery.set()
    await delivery.claim(61)


async def _not_addressed(delivery: Delivery) -> None:
    await delivery.set()
    delivery.message = grouped(addressed_to_bot=False)


async def _unbound(delivery: Delivery) -> None:
    await delivery.set(bound=False)


async def _left(delivery: Delivery) -> None:
    await delivery.set(member=False)


def _failing(step: str) -> Callable[[Delivery], Awaitable[None]]:
    async def prepare(delivery: Delivery) -> None:
        await delivery.set()
        delivery.breaking(delivery.backend, step)

    return prepare


async def _claim_lost(delivery: Delivery) -> None:
    """Another worker retakes the claim while this one looks the session up, and finishes."""
    await delivery.set()
    ensure = delivery.backend.ensure_session

    async def slowly(conversation: Any) -> Any:
        session = await ensure(conversation)
        await delivery.backend.age_claims(61)
        other = await delivery.claim()
        assert await delivery.backend.append_command(_entry(delivery, session), other, notice=None, held_words=None)
        delivery.backend.message_rows.clear()
        return session

    delivery.backend.ensure_session = slowly  # type: ignore[method-assign]


def _entry(delivery: Delivery, session: Any) -> Any:
    assert delivery.person is not None
    return UserMessage(uuid4(), session, delivery.person, "by another", "om_1", "", None)


async def _no_runtime(delivery: Delivery) -> None:
    await delivery.set(has_runtime=False)


async def _archived(delivery: Delivery) -> None:
    await delivery.set(archived=True)


async def _plain(delivery: Delivery) -> None:
    await delivery.set()


async def _grouped(delivery: Delivery) -> None:
    await delivery.set()
    delivery.message = grouped()


async def _without_id(delivery: Delivery) -> None:
    await delivery.set()
    delivery.message = direct("")


async def _no_prefix(delivery: Delivery) -> None:
    await delivery.set()
    delivery.backend.issues.counters[delivery.bot.workspace_id] = 6
    delivery.breaking(delivery.backend.issues, "find_prefix")
    delivery.message = direct(text="/issue Broken")


SITUATIONS: dict[str, Callable[[Delivery], Awaitable[None]]] = {
    "unknown app": _unknown,
    "installation revoked": _revoked,
    "message already processed": _processed,
    "live claim of another worker": _in_flight,
    "claim older than 60 s, not processed": _stale,
    "group message that does not address the bot": _not_addressed,
    "sender not bound": _unbound,
    "sender no longer a member": _left,
    "identity lookup errors": _failing("find_identity"),
    "session lookup errors": _failing("ensure_session"),
    "append errors": _failing("append"),
    "token rotated before append commits": _claim_lost,
    "agent has no runtime": _no_runtime,
    "agent archived": _archived,
    "direct message": _plain,
    "direct message of a member": _plain,
    "group message": _grouped,
    "message without an id": _without_id,
    "workspace lookup fails after /issue; issue number 7": _no_prefix,
}


@pytest.mark.parametrize(
    ("situation", "expected"), [pytest.param(case["input"], case["expected"], id=case["name"]) for case in CASES]
)
async def test_message_in_this_situation_comes_to_what_is_expected(situation: str, expected: dict[str, Any]) -> None:
    delivery = Delivery()
    await SITUATIONS[situation](delivery)
    seen = await _observe(delivery)
    assert expected.items() <= seen.items()


async def _observe(delivery: Delivery) -> dict[str, Any]:
    backend, seen = delivery.backend, {"error": False}
    before = dict(backend.claim_rows)
    async with open_pipeline(backend, fused=False, issues=backend.issues) as pipeline:
        try:
            await pipeline.receive(delivery.message)
        except StoreUnavailable:
            seen["error"] = True
    outcome, reason = pipeline.outcomes[0] if pipeline.outcomes else (None, None)
    sessions, notices = await backend.sessions(), await backend.notices()
    creators = {delivery.bot.installer_id: "installer", delivery.person: "sender"}
    return seen | {
        "outcome": outcome,
        "reason": reason,
        "claim": _claim_of(before, backend),
        "message_written": bool(backend.message_rows),
        "session_creator": creators.get(sessions[0].creator_id) if sessions else None,
        "issue_identifier": notices[0].text.split()[1].rstrip(":") if notices else None,
    }


def _claim_of(before: dict[Any, Any], backend: MemoryInbound) -> str:
    after = backend.claim_rows
    if after == before:
        return "none" if not after and backend.message_rows + backend.audit else "untouched" if after else "release"
    ((key, row),) = after.items()
    assert row.processed_at is not None
    return "retaken_with_new_token" if key in before and before[key].token != row.token else "mark"
