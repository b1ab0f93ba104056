"""What a command leaves behind when a step fails."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from gateway.channel.channel import Verdict
from gateway.core.inbound import DropReason, InboundOutcome
from gateway.core.replies import WORDS, Reply
from gateway.errors import StoreUnavailable
from gateway.inbound.ports import MessageClaim
from support.inbound_memory import MemoryInbound
from support.inbound_world import direct, open_desk


async def _scene() -> MemoryInbound:
    world = MemoryInbound()
    await world.bind(await world.add_bot(), "ou_ann")
    return world


async def _away(*_: object, **__: object) -> Any:
    raise StoreUnavailable("the database is away")


def _breaking(world: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(world, name, _away)


COMMANDS = {"append_command": "/issue x", "start_fresh": "/new", "append": "/new x", "confirm": "/confirm"}


@pytest.mark.parametrize(("step", "words"), COMMANDS.items())
async def test_command_that_cannot_be_kept_gives_its_claim_back(
    monkeypatch: pytest.MonkeyPatch, step: str, words: str
) -> None:
    world = await _scene()
    async with open_desk(world, fused=False, issues=world.issues) as desk:
        with monkeypatch.context() as patch:
            _breaking(world, patch, step)
            with pytest.raises(StoreUnavailable):
                await desk.receive(direct("om_1", words))
        assert world.claim_rows == {}
        assert await desk.receive(direct("om_1", words)) is Verdict.SETTLED


async def test_issue_that_cannot_be_filed_leaves_message_and_claim_and_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = await _scene()
    async with open_desk(world, fused=False, issues=world.issues) as desk:
        with monkeypatch.context() as patch:
            _breaking(world.issues, patch, "insert")
            with pytest.raises(StoreUnavailable):
                await desk.receive(direct("om_1", "/issue x"))
        assert [row.processed_at is not None for row in world.claim_rows.values()] == [True]
        assert [message.content for message in world.message_rows] == ["/issue x"]
        assert await desk.receive(direct("om_1", "/issue x")) is Verdict.SETTLED
    assert desk.outcomes == [(InboundOutcome.DROPPED, DropReason.DUPLICATE)]
    assert await world.filed() == []


async def test_prefix_that_cannot_be_had_shortens_the_identifier(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await _scene()
    for installation in world.installations.values():
        world.issues.counters[installation.workspace_id] = 6
    _breaking(world.issues, monkeypatch, "find_prefix")
    async with open_desk(world, fused=False, issues=world.issues) as desk:
        await desk.receive(direct("om_1", "/issue x"))
    assert [notice.text for notice in await world.notices()] == ["Created #7: x"]


@pytest.mark.parametrize("words", COMMANDS.values())
async def test_command_whose_claim_was_lost_does_nothing(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    world = await _scene()
    find = world.find_identity

    async def find_after_a_retake(installation: Any, sender_id: str) -> Any:
        await world.age_claims(61)
        await world.claim(MessageClaim(installation.id, "om_1", uuid4()))
        return await find(installation, sender_id)

    monkeypatch.setattr(world, "find_identity", find_after_a_retake)
    async with open_desk(world, fused=False, issues=world.issues) as desk:
        assert await desk.receive(direct("om_1", words)) is Verdict.REDELIVER
    assert world.message_rows == world.task_rows == []
    assert await world.filed() == []
    assert await world.notices() == []
    assert [session.generation for session in world.session_rows.values()] == [0]


async def test_message_without_an_id_is_answered_without_quoting() -> None:
    world = await _scene()
    async with open_desk(world, fused=False, issues=world.issues) as desk:
        for _ in range(2):
            await desk.receive(direct("", "/confirm"))
    assert [(notice.reply_to, notice.text) for notice in await world.notices()] == [
        ("", WORDS["en"][Reply.NOTHING_TO_CONFIRM])
    ] * 2


async def test_pipeline_without_a_command_desk_takes_commands_for_messages() -> None:
    world = await _scene()
    async with open_desk(world, fused=True) as desk:
        await desk.receive(direct("om_1", "/issue x"))
    assert [message.kind for message in world.message_rows] == ["text"]
    assert len(world.task_rows) == 1
