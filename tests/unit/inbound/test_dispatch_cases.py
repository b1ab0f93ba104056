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
from support.inbound_memory import MemoryInbound
from support.inbound_world import Bot, direct, grouped, open_desk

CASES = json.loads((Path(__file__).parent / "cases" / "dispatch_outcome.json").read_text())


class Scene:
    """A store with one bot and one person, and the message that is about to come."""

    def __init__(self) -> None:
        self.world = MemoryInbound()
        self.message: InboundMessage = direct()

    async def set(self, *, bound: bool = True, member: bool = True, **bot: Any) -> Bot:
        self.bot = await self.world.add_bot(**bot)
        self.person = await self.world.bind(self.bot, "ou_ann", member=member) if bound else None
        return self.bot

    async def claim(self, age_seconds: float = 0) -> MessageClaim:
        claim = MessageClaim(self.bot.installation_id, "om_1", uuid4())
        await self.world.claim(claim)
        await self.world.age_claims(age_seconds)
        return claim

    def breaking(self, owner: Any, step: str) -> None:
        async def away(*_: object) -> Any:
            raise StoreUnavailable("the database is away")

        setattr(owner, step, away)


async def _unknown(scene: Scene) -> None:
    await scene.set(app_id="cli_other")


async def _revoked(scene: Scene) -> None:
    await scene.set(revoked=True)


async def _processed(scene: Scene) -> None:
    await scene.set()
    async with open_desk(scene.world, fused=False) as desk:
        await desk.receive(scene.message)
    scene.world.message_rows.clear()


async def _in_flight(scene: Scene) -> None:
    await scene.set()
    await scene.claim()


async def _stale(scene: Scene) -> None:
    await scene.set()
    await scene.claim(61)


async def _not_addressed(scene: Scene) -> None:
    await scene.set()
    scene.message = grouped(addressed_to_bot=False)


async def _unbound(scene: Scene) -> None:
    await scene.set(bound=False)


async def _left(scene: Scene) -> None:
    await scene.set(member=False)


def _failing(step: str) -> Callable[[Scene], Awaitable[None]]:
    async def prepare(scene: Scene) -> None:
        await scene.set()
        scene.breaking(scene.world, step)

    return prepare


async def _claim_lost(scene: Scene) -> None:
    """Another worker retakes the claim while this one looks the session up, and finishes."""
    await scene.set()
    ensure = scene.world.ensure_session

    async def slowly(conversation: Any) -> Any:
        session = await ensure(conversation)
        await scene.world.age_claims(61)
        other = await scene.claim()
        assert await scene.world.append_command(_entry(scene, session), other, notice=None, held_words=None)
        scene.world.message_rows.clear()
        return session

    scene.world.ensure_session = slowly  # type: ignore[method-assign]


def _entry(scene: Scene, session: Any) -> Any:
    assert scene.person is not None
    return UserMessage(uuid4(), session, scene.person, "by another", "om_1", "", None)


async def _no_runtime(scene: Scene) -> None:
    await scene.set(has_runtime=False)


async def _archived(scene: Scene) -> None:
    await scene.set(archived=True)


async def _plain(scene: Scene) -> None:
    await scene.set()


async def _grouped(scene: Scene) -> None:
    await scene.set()
    scene.message = grouped()


async def _without_id(scene: Scene) -> None:
    await scene.set()
    scene.message = direct("")


async def _no_prefix(scene: Scene) -> None:
    await scene.set()
    scene.world.issues.counters[scene.bot.workspace_id] = 6
    scene.breaking(scene.world.issues, "find_prefix")
    scene.message = direct(text="/issue Broken")


SITUATIONS: dict[str, Callable[[Scene], Awaitable[None]]] = {
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
    scene = Scene()
    await SITUATIONS[situation](scene)
    seen = await _observe(scene)
    assert expected.items() <= seen.items()


async def _observe(scene: Scene) -> dict[str, Any]:
    world, seen = scene.world, {"error": False}
    before = dict(world.claim_rows)
    async with open_desk(world, fused=False, issues=world.issues) as desk:
        try:
            await desk.receive(scene.message)
        except StoreUnavailable:
            seen["error"] = True
    outcome, reason = desk.outcomes[0] if desk.outcomes else (None, None)
    sessions, notices = await world.sessions(), await world.notices()
    creators = {scene.bot.installer_id: "installer", scene.person: "sender"}
    return seen | {
        "outcome": outcome,
        "reason": reason,
        "claim": _claim_of(before, world),
        "message_written": bool(world.message_rows),
        "session_creator": creators.get(sessions[0].creator_id) if sessions else None,
        "issue_identifier": notices[0].text.split()[1].rstrip(":") if notices else None,
    }


def _claim_of(before: dict[Any, Any], world: MemoryInbound) -> str:
    after = world.claim_rows
    if after == before:
        return "none" if not after and world.message_rows + world.audit else "untouched" if after else "release"
    ((key, row),) = after.items()
    assert row.processed_at is not None
    return "retaken_with_new_token" if key in before and before[key].token != row.token else "mark"
