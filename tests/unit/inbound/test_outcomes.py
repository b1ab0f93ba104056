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
from support.inbound_backend import direct, grouped, open_pipeline
from support.inbound_memory import MemoryInbound


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


async def prepared(case: Case) -> MemoryInbound:
    backend = MemoryInbound()
    bot = await backend.add_bot(**case.bot)
    if case.bound:
        await backend.bind(bot, "ou_ann", member=case.member)
    if case.claim_age is not None:
        await backend.claim(MessageClaim(bot.installation_id, "om_1", uuid4()))
        await backend.age_claims(case.claim_age)
    return backend


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "stepwise"])
@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
async def test_message_comes_to_the_outcome_of_its_situation(case: Case, fused: bool) -> None:
    backend = await prepared(case)
    async with open_pipeline(backend, fused=fused, issues=backend.issues) as pipeline:
        await pipeline.receive(case.message)
    assert pipeline.outcomes == [(case.outcome, case.reason)]
    assert pipeline.recorder.seen("channel_events") == [("feishu", case.reason or case.outcome)]
    assert pipeline.ingested == ["om_1"] * case.run
    assert len(backend.message_rows) == case.kept
    expected = [] if case.processed is None else [case.processed]
    assert [row.processed_at is not None for row in backend.claim_rows.values()] == expected


@pytest.mark.parametrize("step", ["find_identity", "ensure_session", "append"])
async def test_step_that_fails_is_an_error_and_releases(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    async def away(*_: object) -> Any:
        raise StoreUnavailable("the database is away")

    backend = await prepared(CASES["ingested"])
    monkeypatch.setattr(backend, step, away)
    async with open_pipeline(backend, fused=False, issues=backend.issues) as pipeline:
        with pytest.raises(StoreUnavailable):
            await pipeline.receive(direct())
    assert pipeline.outcomes == []
    assert backend.claim_rows == {}
