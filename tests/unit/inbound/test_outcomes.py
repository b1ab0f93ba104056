"""One line per situation: what becomes of a message, of its claim, and of what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from gateway.channel.message import InboundMessage
from gateway.core.inbound import DropReason, InboundOutcome
from gateway.errors import StoreUnavailable
from gateway.inbound.ports import MessageClaim
from support.inbound_memory import MemoryInbound
from support.inbound_world import direct, grouped, open_desk


@dataclass(frozen=True)
class Case:
    """`claim_age` is of a claim that another worker left in flight. `kept` counts the messages that are written.

    `run`: it is taken in as words for a run, and whoever prepares that is told.
    """

    outcome: InboundOutcome
    reason: DropReason | None = None
    bot: dict[str, Any] = field(default_factory=dict)
    message: InboundMessage = field(default_factory=direct)
    bound: bool = True
    member: bool = True
    claim_age: float | None = None
    processed: bool | None = True
    kept: int = 0
    run: bool = False


CASES = {
    "unknown installation": Case(
        InboundOutcome.DROPPED, DropReason.INVALID_EVENT, message=direct(app_id="cli_unknown"), processed=None
    ),
    "revoked": Case(InboundOutcome.DROPPED, DropReason.REVOKED_INSTALLATION, bot={"revoked": True}, processed=None),
    "claim in flight": Case(InboundOutcome.DROPPED, DropReason.DUPLICATE, claim_age=10, processed=False),
    "stale claim": Case(InboundOutcome.INGESTED, claim_age=61, kept=1, run=True),
    "not addressed": Case(
        InboundOutcome.DROPPED, DropReason.NOT_ADDRESSED_IN_GROUP, message=grouped(addressed_to_bot=False)
    ),
    "unbound": Case(InboundOutcome.NEEDS_BINDING, DropReason.UNBOUND_USER, bound=False),
    "no member": Case(InboundOutcome.DROPPED, DropReason.NON_WORKSPACE_MEMBER, member=False),
    "a bot": Case(InboundOutcome.DROPPED, DropReason.SENDER_IS_BOT, message=direct(sender_is_bot=True)),
    "ingested": Case(InboundOutcome.INGESTED, kept=1, run=True),
    "no runtime": Case(InboundOutcome.AGENT_OFFLINE, bot={"has_runtime": False}, kept=1),
    "archived agent": Case(InboundOutcome.AGENT_ARCHIVED, bot={"archived": True}, kept=1),
    "bare fresh start": Case(InboundOutcome.FRESH_PENDING, message=direct(text="/new")),
    "fresh start": Case(InboundOutcome.INGESTED, message=direct(text="/new hello"), kept=1),
    "issue": Case(InboundOutcome.INGESTED, message=direct(text="/issue x"), kept=1),
    "issue without a title": Case(InboundOutcome.ISSUE_USAGE, message=direct(text="/issue"), kept=1),
    "nothing to confirm": Case(InboundOutcome.INGESTED, message=direct(text="/confirm"), kept=1),
}


async def scene(case: Case) -> MemoryInbound:
    world = MemoryInbound()
    bot = await world.add_bot(**case.bot)
    if case.bound:
        await world.bind(bot, "ou_ann", member=case.member)
    if case.claim_age is not None:
        await world.claim(MessageClaim(bot.installation_id, "om_1", uuid4()))
        await world.age_claims(case.claim_age)
    return world


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "stepwise"])
@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
async def test_message_comes_to_the_outcome_of_its_situation(case: Case, fused: bool) -> None:
    world = await scene(case)
    async with open_desk(world, fused=fused, issues=world.issues) as desk:
        await desk.receive(case.message)
    assert desk.outcomes == [(case.outcome, case.reason)]
    assert desk.recorder.seen("channel_events") == [("feishu", case.reason or case.outcome)]
    assert desk.ingested == ["om_1"] * case.run
    assert len(world.message_rows) == case.kept
    expected = [] if case.processed is None else [case.processed]
    assert [row.processed_at is not None for row in world.claim_rows.values()] == expected


@pytest.mark.parametrize("step", ["find_identity", "ensure_session", "append"])
async def test_step_that_fails_is_an_error_and_releases(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    async def away(*_: object) -> Any:
        raise StoreUnavailable("the database is away")

    world = await scene(CASES["ingested"])
    monkeypatch.setattr(world, step, away)
    async with open_desk(world, fused=False, issues=world.issues) as desk:
        with pytest.raises(StoreUnavailable):
            await desk.receive(direct())
    assert desk.outcomes == []
    assert world.claim_rows == {}
