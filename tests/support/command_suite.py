"""What commands and replies promise, whichever store is behind them. Run from tests/unit/inbound and integration."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from gateway.channel.channel import Verdict
from gateway.core.inbound import DropReason, InboundOutcome
from gateway.core.replies import WORDS, Reply
from support.inbound_world import Bot, Desk, InboundWorld, StoredNotice, direct, grouped, open_desk

USAGE = WORDS["en"][Reply.ISSUE_USAGE]
FRESH = WORDS["en"][Reply.FRESH_PENDING]
NOTHING = WORDS["en"][Reply.NOTHING_TO_CONFIRM]
CREATED = "Created W-1: Fix the login\nhttps://gateway.example.test/issues/W-1"
OLD = 700.0


@asynccontextmanager
async def _opened(world: InboundWorld, *, fused: bool = True) -> AsyncIterator[Desk]:
    async with open_desk(world.store, fused=fused, issues=world.issues) as desk:
        yield desk


async def _staffed(world: InboundWorld, **options: object) -> Bot:
    bot = await world.add_bot(**options)  # type: ignore[arg-type]
    await world.bind(bot, "ou_ann")
    return bot


async def _texts(world: InboundWorld) -> list[str]:
    return [notice.text for notice in await world.notices()]


class CommandSuite:
    # /issue

    async def test_issue_is_filed_confirmed_and_ends_the_turn(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            assert await desk.receive(direct("om_1", "/issue Fix the login\nIt fails.")) is Verdict.SETTLED
        (issue,) = await world.filed()
        (message,) = await world.messages()
        (session,) = await world.sessions()
        assert (issue.title, issue.description, issue.runs) == ("Fix the login", "It fails.", 1)
        assert (issue.creator_id, issue.origin_id) == (message.author_id, session.id)
        assert message.kind == "channel_command"
        assert await world.tasks() == []
        assert await world.notices() == [StoredNotice("oc_ou_ann", "om_1", "", CREATED)]
        assert desk.outcomes == [(InboundOutcome.INGESTED, None)]

    async def test_delivered_again_issue_is_a_duplicate_message_without_effect(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            for _ in range(2):
                assert await desk.receive(direct("om_1", "/issue Fix the login")) is Verdict.SETTLED
        assert len(await world.filed()) == len(await world.notices()) == 1
        assert desk.outcomes[1] == (InboundOutcome.DROPPED, DropReason.DUPLICATE)

    async def test_deliveries_at_the_same_time_file_one_issue(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(desk.receive, direct("om_1", "/issue Fix the login"))
        assert len(await world.filed()) == len(await world.notices()) == 1

    async def test_open_issue_of_the_same_title_is_named_instead(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/issue Fix the login"))
            assert await desk.receive(direct("om_2", "/issue fix  the LOGIN")) is Verdict.SETTLED
        assert [issue.runs for issue in await world.filed()] == [1]
        assert (await world.notices())[1] == StoredNotice(
            "oc_ou_ann",
            "om_2",
            "",
            "W-1 has this title already and is still open: Fix the login\nhttps://gateway.example.test/issues/W-1",
        )

    async def test_bare_issue_is_titled_by_its_senders_previous_message(self, world: InboundWorld) -> None:
        bot = await _staffed(world)
        await world.bind(bot, "ou_bob")
        async with _opened(world) as desk:
            await desk.receive(grouped("om_1", "the login is broken\nsince Tuesday"))
            await desk.receive(grouped("om_2", "not mine", sender="ou_bob"))
            await desk.receive(grouped("om_3", "/issue"))
        assert [issue.title for issue in await world.filed()] == ["the login is broken"]

    @pytest.mark.parametrize("former", [None, "/confirm", "/new"])
    async def test_bare_issue_without_anything_to_call_it_explains_itself(
        self, world: InboundWorld, former: str | None
    ) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            if former is not None:
                await desk.receive(direct("om_0", former))
            await desk.receive(direct("om_1", "/issue "))
        assert await world.filed() == []
        assert desk.outcomes[-1] == (InboundOutcome.ISSUE_USAGE, None)
        assert (await world.notices())[-1] == StoredNotice("oc_ou_ann", "om_1", "", USAGE)

    async def test_command_is_read_from_the_senders_own_words_alone(self, world: InboundWorld) -> None:
        await _staffed(world)
        quoted = "quoted:\n/issue Old\nold words\n\n"
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", quoted + "what of it?", command_text="what of it?"))
            new = "/issue New\nnew words"
            await desk.receive(direct("om_2", f"{quoted}{new}\n[Image]", command_text=new))
        (issue,) = await world.filed()
        assert (issue.title, issue.description) == ("New", "new words\n[Image]")
        assert [message.kind for message in await world.messages()] == ["text", "channel_command"]

    async def test_words_of_people_mint_no_link_in_a_reply(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/issue [reset](https://evil.example)"))
        (text,) = await _texts(world)
        assert "[reset] (https://evil.example)" in text
        assert "](" not in text

    async def test_issue_in_a_topic_is_answered_there(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(grouped("om_1", "/issue Fix the login", thread="omt_1"))
        assert await world.notices() == [StoredNotice("oc_team", "om_1", "omt_1", CREATED)]

    async def test_issue_of_a_stranger_is_no_command(self, world: InboundWorld) -> None:
        await world.add_bot()
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/issue Fix the login"))
        assert await world.filed() == []
        assert await world.notices() == []
        assert desk.outcomes == [(InboundOutcome.NEEDS_BINDING, DropReason.UNBOUND_USER)]

    @pytest.mark.parametrize(
        ("options", "reply", "runs"),
        [({"has_runtime": False}, Reply.RUN_OFFLINE, 1), ({"archived": True}, Reply.RUN_ARCHIVED, 0)],
        ids=["offline", "archived"],
    )
    async def test_confirmation_tells_of_an_agent_that_does_not_start(
        self, world: InboundWorld, options: dict[str, bool], reply: Reply, runs: int
    ) -> None:
        await _staffed(world, **options)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/issue Fix the login"))
        assert [issue.runs for issue in await world.filed()] == [runs]
        assert await _texts(world) == [f"{CREATED}\n{WORDS['en'][reply]}"]

    async def test_confirmation_tells_of_a_silent_runtime(self, world: InboundWorld) -> None:
        await world.hear_runtime(await _staffed(world), heard=False)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/issue Fix the login"))
        assert [issue.runs for issue in await world.filed()] == [1]
        assert await _texts(world) == [f"{CREATED}\n{WORDS['en'][Reply.RUN_OFFLINE]}"]

    # /new

    async def test_new_with_words_begins_a_generation_with_them(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "before"))
            await desk.receive(direct("om_2", "/new after\nthat"))
            await desk.receive(direct("om_3", "and then"))
        said = [(message.content, message.kind, message.generation) for message in await world.messages()]
        assert said == [("before", "text", 0), ("after\nthat", "text", 1), ("and then", "text", 1)]
        assert len(await world.tasks()) == 1
        assert await world.notices() == []

    async def test_bare_new_waits_for_the_next_message(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/new"))
            assert await world.messages() == []
            assert await world.tasks() == []
            await desk.receive(direct("om_2", "after"))
        assert desk.outcomes == [(InboundOutcome.FRESH_PENDING, None), (InboundOutcome.INGESTED, None)]
        assert [(message.content, message.generation) for message in await world.messages()] == [("after", 1)]
        assert await world.notices() == [StoredNotice("oc_ou_ann", "om_1", "", FRESH)]

    async def test_bare_new_that_is_delivered_again_changes_nothing_more(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/new"))
            await desk.receive(direct("om_2", "after"))
            await desk.receive(direct("om_1", "/new"))
            await desk.receive(direct("om_3", "and then"))
        assert [message.generation for message in await world.messages()] == [1, 1]

    async def test_new_with_an_issue_behind_it_files_none(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/new /issue x"))
        assert await world.filed() == []
        assert [(message.content, message.kind) for message in await world.messages()] == [("/issue x", "text")]
        assert len(await world.tasks()) == 1

    # who is not there

    @pytest.mark.parametrize("language", ["en", "zh-Hans"])
    @pytest.mark.parametrize("fused", [True, False], ids=["fused", "stepwise"])
    async def test_agent_without_a_runtime_says_so_in_the_workspaces_language(
        self, world: InboundWorld, fused: bool, language: str
    ) -> None:
        await _staffed(world, has_runtime=False, language=language)
        async with _opened(world, fused=fused) as desk:
            for number in (1, 2, 2, 3):
                await desk.receive(direct(f"om_{number}"))
        words = WORDS[language][Reply.AGENT_OFFLINE]
        assert await world.notices() == [StoredNotice("oc_ou_ann", "om_1", "", words)]
        assert len(await world.messages()) == 3
        assert [task.status for task in await world.tasks()] == ["queued"]

    @pytest.mark.parametrize("fused", [True, False], ids=["fused", "stepwise"])
    async def test_silent_runtime_is_told_of_once_for_each_conversation_and_silence(
        self, world: InboundWorld, fused: bool
    ) -> None:
        bot = await _staffed(world)
        words = WORDS["en"][Reply.AGENT_OFFLINE]
        async with _opened(world, fused=fused) as desk:
            await desk.receive(direct("om_0"))
            await world.hear_runtime(bot, heard=False)
            for number in range(1, 6):
                await desk.receive(direct(f"om_{number}"))
            await desk.receive(grouped("om_6"))
            await world.hear_runtime(bot, heard=True)
            await desk.receive(direct("om_7"))
            told = [StoredNotice("oc_ou_ann", "om_1", "", words), StoredNotice("oc_team", "om_6", "", words)]
            assert await world.notices() == told
            await world.hear_runtime(bot, heard=False)
            await desk.receive(direct("om_8"))
            await desk.receive(direct("om_9"))
        assert await world.notices() == [*told, StoredNotice("oc_ou_ann", "om_8", "", words)]
        assert desk.outcomes == [(InboundOutcome.INGESTED, None)] * 10
        assert len(await world.messages()) == 10
        assert [task.status for task in await world.tasks()] == ["queued", "queued"]

    async def test_conversation_that_was_put_away_is_told_of_no_silence(self, world: InboundWorld) -> None:
        bot = await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1"))
            await world.hear_runtime(bot, heard=False)
            await world.archive_sessions()
            await desk.receive(direct("om_2"))
        assert await world.notices() == []

    async def test_runtime_that_comes_and_goes_begins_another_absence(self, world: InboundWorld) -> None:
        bot = await _staffed(world, has_runtime=False)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1"))
            await world.set_runtime(bot, there=True)
            await desk.receive(direct("om_2"))
            await world.set_runtime(bot, there=False)
            await desk.receive(direct("om_3"))
            await desk.receive(direct("om_4"))
        assert [notice.reply_to for notice in await world.notices()] == ["om_1", "om_3"]

    async def test_archived_agent_says_so_once_for_each_time_it_is_archived(self, world: InboundWorld) -> None:
        bot = await _staffed(world, archived=True)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1"))
            await desk.receive(direct("om_2"))
            await world.archive_agent(bot, archived=False)
            await desk.receive(direct("om_3"))
            await world.archive_agent(bot)
            await desk.receive(direct("om_4"))
            await desk.receive(direct("om_5"))
        notices = [(notice.reply_to, notice.text) for notice in await world.notices()]
        assert notices == [(each, WORDS["en"][Reply.AGENT_ARCHIVED]) for each in ("om_1", "om_4")]

    async def test_conversation_that_was_put_away_stays_silent(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1"))
            await world.archive_sessions()
            await desk.receive(direct("om_2"))
        assert await world.notices() == []

    # commands that come too late

    async def test_stale_command_is_held_and_asked_about(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/issue Fix the login", sent_at=await world.sent(OLD)))
        assert await world.filed() == []
        assert desk.outcomes == [(InboundOutcome.COMMAND_HELD, None)]
        (text,) = await _texts(world)
        assert "12 min" in text
        assert "/issue Fix the login" in text
        assert "/confirm" in text

    async def test_young_command_runs_at_once(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/issue Fix the login", sent_at=await world.sent(60)))
        assert len(await world.filed()) == 1

    async def test_confirmed_issue_is_filed_once_with_its_own_description(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/issue Fix the login\nIt fails.", sent_at=await world.sent(OLD)))
            await desk.receive(direct("om_2", "/confirm"))
            await desk.receive(direct("om_3", "/confirm"))
        (issue,) = await world.filed()
        assert (issue.title, issue.description) == ("Fix the login", "It fails.")
        assert (await world.notices())[1:] == [
            StoredNotice("oc_ou_ann", "om_2", "", CREATED),
            StoredNotice("oc_ou_ann", "om_3", "", NOTHING),
        ]

    async def test_confirmed_bare_issue_is_titled_by_what_came_before_it(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "the login is broken"))
            await desk.receive(direct("om_2", "/issue", sent_at=await world.sent(OLD)))
            await desk.receive(direct("om_3", "/confirm"))
        assert [issue.title for issue in await world.filed()] == ["the login is broken"]

    async def test_confirmed_fresh_start_begins_with_its_words(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/new start over", sent_at=await world.sent(OLD)))
            await desk.receive(direct("om_2", "/confirm"))
        said = [(message.content, message.kind, message.generation) for message in await world.messages()]
        assert said[-1] == ("start over", "text", 1)
        assert len(await world.tasks()) == 1

    async def test_confirmed_bare_fresh_start_waits_for_the_next_message(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/new", sent_at=await world.sent(OLD)))
            await desk.receive(direct("om_2", "/confirm"))
            await desk.receive(direct("om_3", "after"))
        assert (await _texts(world))[-1] == FRESH
        assert (await world.messages())[-1].generation == 1

    @pytest.mark.parametrize("between", ["never mind", "/new", "/new start over", "/issue"])
    async def test_anything_else_in_between_drops_what_was_held(self, world: InboundWorld, between: str) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_0", "  "))
            await desk.receive(direct("om_1", "/issue Fix the login", sent_at=await world.sent(OLD)))
            await desk.receive(direct("om_2", between))
            filed = len(await world.filed())
            await desk.receive(direct("om_3", "/confirm"))
        assert (await _texts(world))[-1] == NOTHING
        assert len(await world.filed()) == filed

    async def test_held_command_is_its_senders_alone(self, world: InboundWorld) -> None:
        bot = await _staffed(world)
        await world.bind(bot, "ou_bob")
        async with _opened(world) as desk:
            await desk.receive(grouped("om_1", "/issue Fix the login", sent_at=await world.sent(OLD)))
            await desk.receive(grouped("om_2", "hello", sender="ou_bob"))
            await desk.receive(grouped("om_3", "/confirm", sender="ou_bob"))
            assert await world.filed() == []
            await desk.receive(grouped("om_4", "/confirm"))
        assert [issue.title for issue in await world.filed()] == ["Fix the login"]

    async def test_newest_held_command_is_the_one_that_is_confirmed(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            for number in (1, 2):
                await desk.receive(direct(f"om_{number}", f"/issue number {number}", sent_at=await world.sent(OLD)))
            await desk.receive(direct("om_3", "/confirm"))
        assert [issue.title for issue in await world.filed()] == ["number 2"]

    async def test_confirmation_after_an_hour_confirms_nothing(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/issue Fix the login", sent_at=await world.sent(OLD)))
            await world.age_held(3601)
            await desk.receive(direct("om_2", "/confirm"))
        assert await world.filed() == []
        assert (await _texts(world))[-1] == NOTHING

    async def test_confirmation_that_is_old_itself_confirms_nothing(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "/issue Fix the login", sent_at=await world.sent(OLD)))
            await desk.receive(direct("om_2", "/confirm", sent_at=await world.sent(OLD)))
            await desk.receive(direct("om_3", "/confirm"))
        assert await world.filed() == []
        assert (await _texts(world))[1:] == [NOTHING, NOTHING]

    async def test_stale_text_that_is_no_command_goes_to_the_agent(self, world: InboundWorld) -> None:
        await _staffed(world)
        async with _opened(world) as desk:
            await desk.receive(direct("om_1", "hello", sent_at=await world.sent(OLD)))
        assert len(await world.tasks()) == 1
        assert await world.notices() == []
