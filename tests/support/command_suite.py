"""What commands and replies promise, whichever store is behind them. Run from tests/unit/inbound and integration."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio

from gateway.channel.channel import Verdict
from gateway.channel.message import ReplyTo
from gateway.core.inbound import DropReason, InboundOutcome
from gateway.core.replies import WORDS, Reply
from support.inbound_backend import Bot, InboundBackend, ObservedPipeline, StoredNotice, direct, grouped, open_pipeline

USAGE = WORDS["en"][Reply.ISSUE_USAGE]
FRESH = WORDS["en"][Reply.FRESH_PENDING]
NOTHING = WORDS["en"][Reply.NOTHING_TO_CONFIRM]
CREATED = "Created W-1: Fix the login\nhttps://gateway.example.test/issues/W-1"
OLD = 700.0


@asynccontextmanager
async def _opened(
    backend: InboundBackend, *, fused: bool = True, quotes: Mapping[str, str] | None = None
) -> AsyncIterator[ObservedPipeline]:
    async with open_pipeline(backend.store, fused=fused, issues=backend.issues, quotes=quotes) as pipeline:
        yield pipeline


async def _staffed(backend: InboundBackend, **options: object) -> Bot:
    bot = await backend.add_bot(**options)  # type: ignore[arg-type]
    await backend.bind(bot, "ou_ann")
    return bot


async def _texts(backend: InboundBackend) -> list[str]:
    return [notice.text for notice in await backend.notices()]


class CommandSuite:
    # /issue

    async def test_issue_is_filed_confirmed_and_ends_the_turn(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            assert await pipeline.receive(direct("om_1", "/issue Fix the login\nIt fails.")) is Verdict.SETTLED
        (issue,) = await backend.filed()
        (message,) = await backend.messages()
        (session,) = await backend.sessions()
        assert (issue.title, issue.description, issue.runs) == ("Fix the login", "It fails.", 1)
        assert (issue.creator_id, issue.origin_id) == (message.author_id, session.id)
        assert message.kind == "channel_command"
        assert await backend.tasks() == []
        assert await backend.notices() == [StoredNotice("oc_ou_ann", "om_1", "", CREATED)]
        assert pipeline.outcomes == [(InboundOutcome.INGESTED, None)]

    async def test_delivered_again_issue_is_a_duplicate_message_without_effect(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            for _ in range(2):
                assert await pipeline.receive(direct("om_1", "/issue Fix the login")) is Verdict.SETTLED
        assert len(await backend.filed()) == len(await backend.notices()) == 1
        assert pipeline.outcomes[1] == (InboundOutcome.DROPPED, DropReason.DUPLICATE)

    async def test_deliveries_at_the_same_time_file_one_issue(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(pipeline.receive, direct("om_1", "/issue Fix the login"))
        assert len(await backend.filed()) == len(await backend.notices()) == 1

    async def test_open_issue_of_the_same_title_is_named_instead(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/issue Fix the login"))
            assert await pipeline.receive(direct("om_2", "/issue fix  the LOGIN")) is Verdict.SETTLED
        assert [issue.runs for issue in await backend.filed()] == [1]
        assert (await backend.notices())[1] == StoredNotice(
            "oc_ou_ann",
            "om_2",
            "",
            "W-1 has this title already and is still open: Fix the login\nhttps://gateway.example.test/issues/W-1",
        )

    async def test_bare_issue_is_titled_by_its_senders_previous_message(self, backend: InboundBackend) -> None:
        bot = await _staffed(backend)
        await backend.bind(bot, "ou_bob")
        async with _opened(backend) as pipeline:
            await pipeline.receive(grouped("om_1", "the login is broken\nsince Tuesday"))
            await pipeline.receive(grouped("om_2", "not mine", sender="ou_bob"))
            await pipeline.receive(grouped("om_3", "/issue"))
        assert [issue.title for issue in await backend.filed()] == ["the login is broken"]

    @pytest.mark.parametrize(
        ("command", "quote", "title", "description"),
        [
            ("/issue", "the login is broken\nsince Tuesday", "the login is broken", "since Tuesday"),
            ("/issue", "\n[Image] the login\n\nfails", "the login", "fails"),
            ("/issue\nplease", "the login is broken\nsince Tuesday", "the login is broken", "please\n\nsince Tuesday"),
            ("/issue", "/issue Fix the login\nIt fails.", "Fix the login", "It fails."),
            ("/issue Fix it", "the login\n\nis broken", "Fix it", "> the login\n>\n> is broken"),
            ("/issue Fix it\nsoon", "the login", "Fix it", "soon\n\n> the login"),
            ("/issue", "l" * 300, "l" * 200 + "…", "l" * 300),
            # Nothing came in time, or nothing that could be a title.
            ("/issue", "", "my own words", ""),
            ("/issue", "[Image]", "my own words", "> [Image]"),
            ("/issue Fix it", "", "Fix it", ""),
        ],
    )
    @pytest.mark.parametrize("stale", [False, True], ids=["fresh", "confirmed"])
    async def test_issue_that_answers_a_message_takes_its_words(
        self, backend: InboundBackend, command: str, quote: str, title: str, description: str, stale: bool
    ) -> None:
        await _staffed(backend)
        async with _opened(backend, quotes={"om_quoted": quote}) as pipeline:
            await pipeline.receive(direct("om_0", "my own words"))
            sent_at = await backend.sent(OLD) if stale else None
            await pipeline.receive(direct("om_1", command, reply_to=ReplyTo("om_quoted"), sent_at=sent_at))
            if stale:
                assert await backend.filed() == []
                await pipeline.receive(direct("om_2", "/confirm", reply_to=ReplyTo("om_other")))
        assert [(issue.title, issue.description) for issue in await backend.filed()] == [(title, description)]

    async def test_bare_issue_on_a_message_without_words_explains_itself(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend, quotes={"om_quoted": "[Image]"}) as pipeline:
            await pipeline.receive(direct("om_1", "/issue", reply_to=ReplyTo("om_quoted")))
        assert await backend.filed() == []
        assert await _texts(backend) == [USAGE]

    @pytest.mark.parametrize("former", [None, "/confirm", "/new"])
    async def test_bare_issue_without_anything_to_call_it_explains_itself(
        self, backend: InboundBackend, former: str | None
    ) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            if former is not None:
                await pipeline.receive(direct("om_0", former))
            await pipeline.receive(direct("om_1", "/issue "))
        assert await backend.filed() == []
        assert pipeline.outcomes[-1] == (InboundOutcome.ISSUE_USAGE, None)
        assert (await backend.notices())[-1] == StoredNotice("oc_ou_ann", "om_1", "", USAGE)

    async def test_command_is_read_from_the_senders_own_words_alone(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        quoted = "quoted:\n/issue Old\nold words\n\n"
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", quoted + "what of it?", command_text="what of it?"))
            new = "/issue New\nnew words"
            await pipeline.receive(direct("om_2", f"{quoted}{new}\n[Image]", command_text=new))
        (issue,) = await backend.filed()
        assert (issue.title, issue.description) == ("New", "new words\n[Image]")
        assert [message.kind for message in await backend.messages()] == ["text", "channel_command"]

    async def test_words_of_people_mint_no_link_in_a_reply(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/issue [reset](https://evil.example)"))
        (text,) = await _texts(backend)
        assert "[reset] (https://evil.example)" in text
        assert "](" not in text

    async def test_issue_in_a_topic_is_answered_there(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(grouped("om_1", "/issue Fix the login", thread="omt_1"))
        assert await backend.notices() == [StoredNotice("oc_team", "om_1", "omt_1", CREATED)]

    async def test_issue_of_a_stranger_is_no_command(self, backend: InboundBackend) -> None:
        await backend.add_bot()
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/issue Fix the login"))
        assert await backend.filed() == []
        assert await backend.notices() == []
        assert pipeline.outcomes == [(InboundOutcome.NEEDS_BINDING, DropReason.UNBOUND_USER)]

    @pytest.mark.parametrize(
        ("options", "reply", "runs"),
        [({"has_runtime": False}, Reply.RUN_OFFLINE, 1), ({"archived": True}, Reply.RUN_ARCHIVED, 0)],
        ids=["offline", "archived"],
    )
    async def test_confirmation_tells_of_an_agent_that_does_not_start(
        self, backend: InboundBackend, options: dict[str, bool], reply: Reply, runs: int
    ) -> None:
        await _staffed(backend, **options)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/issue Fix the login"))
        assert [issue.runs for issue in await backend.filed()] == [runs]
        assert await _texts(backend) == [f"{CREATED}\n{WORDS['en'][reply]}"]

    async def test_confirmation_tells_of_a_silent_runtime(self, backend: InboundBackend) -> None:
        await backend.hear_runtime(await _staffed(backend), heard=False)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/issue Fix the login"))
        assert [issue.runs for issue in await backend.filed()] == [1]
        assert await _texts(backend) == [f"{CREATED}\n{WORDS['en'][Reply.RUN_OFFLINE]}"]

    # /new

    async def test_new_with_words_begins_a_generation_with_them(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "before"))
            await pipeline.receive(direct("om_2", "/new after\nthat"))
            await pipeline.receive(direct("om_3", "and then"))
        said = [(message.content, message.kind, message.generation) for message in await backend.messages()]
        assert said == [("before", "text", 0), ("after\nthat", "text", 1), ("and then", "text", 1)]
        assert len(await backend.tasks()) == 1
        assert await backend.notices() == []

    async def test_bare_new_waits_for_the_next_message(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/new"))
            assert await backend.messages() == []
            assert await backend.tasks() == []
            await pipeline.receive(direct("om_2", "after"))
        assert pipeline.outcomes == [(InboundOutcome.FRESH_PENDING, None), (InboundOutcome.INGESTED, None)]
        assert [(message.content, message.generation) for message in await backend.messages()] == [("after", 1)]
        assert await backend.notices() == [StoredNotice("oc_ou_ann", "om_1", "", FRESH)]

    async def test_bare_new_that_is_delivered_again_changes_nothing_more(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/new"))
            await pipeline.receive(direct("om_2", "after"))
            await pipeline.receive(direct("om_1", "/new"))
            await pipeline.receive(direct("om_3", "and then"))
        assert [message.generation for message in await backend.messages()] == [1, 1]

    async def test_new_with_an_issue_behind_it_files_none(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/new /issue x"))
        assert await backend.filed() == []
        assert [(message.content, message.kind) for message in await backend.messages()] == [("/issue x", "text")]
        assert len(await backend.tasks()) == 1

    # who is not there

    @pytest.mark.parametrize("language", ["en", "zh-Hans"])
    @pytest.mark.parametrize("fused", [True, False], ids=["fused", "stepwise"])
    async def test_agent_without_a_runtime_says_so_in_the_workspaces_language(
        self, backend: InboundBackend, fused: bool, language: str
    ) -> None:
        await _staffed(backend, has_runtime=False, language=language)
        async with _opened(backend, fused=fused) as pipeline:
            for number in (1, 2, 2, 3):
                await pipeline.receive(direct(f"om_{number}"))
        words = WORDS[language][Reply.AGENT_OFFLINE]
        assert await backend.notices() == [StoredNotice("oc_ou_ann", "om_1", "", words)]
        assert len(await backend.messages()) == 3
        assert [task.status for task in await backend.tasks()] == ["queued"]

    @pytest.mark.parametrize("fused", [True, False], ids=["fused", "stepwise"])
    async def test_silent_runtime_is_told_of_once_for_each_conversation_and_silence(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        bot = await _staffed(backend)
        words = WORDS["en"][Reply.AGENT_OFFLINE]
        async with _opened(backend, fused=fused) as pipeline:
            await pipeline.receive(direct("om_0"))
            await backend.hear_runtime(bot, heard=False)
            for number in range(1, 6):
                await pipeline.receive(direct(f"om_{number}"))
            await pipeline.receive(grouped("om_6"))
            await backend.hear_runtime(bot, heard=True)
            await pipeline.receive(direct("om_7"))
            told = [StoredNotice("oc_ou_ann", "om_1", "", words), StoredNotice("oc_team", "om_6", "", words)]
            assert await backend.notices() == told
            await backend.hear_runtime(bot, heard=False)
            await pipeline.receive(direct("om_8"))
            await pipeline.receive(direct("om_9"))
        assert await backend.notices() == [*told, StoredNotice("oc_ou_ann", "om_8", "", words)]
        assert pipeline.outcomes == [(InboundOutcome.INGESTED, None)] * 10
        assert len(await backend.messages()) == 10
        assert [task.status for task in await backend.tasks()] == ["queued", "queued"]

    async def test_conversation_that_was_put_away_is_told_of_no_silence(self, backend: InboundBackend) -> None:
        bot = await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1"))
            await backend.hear_runtime(bot, heard=False)
            await backend.archive_sessions()
            await pipeline.receive(direct("om_2"))
        assert await backend.notices() == []

    async def test_runtime_that_comes_and_goes_begins_another_absence(self, backend: InboundBackend) -> None:
        bot = await _staffed(backend, has_runtime=False)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1"))
            await backend.set_runtime(bot, there=True)
            await pipeline.receive(direct("om_2"))
            await backend.set_runtime(bot, there=False)
            await pipeline.receive(direct("om_3"))
            await pipeline.receive(direct("om_4"))
        assert [notice.reply_to for notice in await backend.notices()] == ["om_1", "om_3"]

    async def test_archived_agent_says_so_once_for_each_time_it_is_archived(self, backend: InboundBackend) -> None:
        bot = await _staffed(backend, archived=True)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1"))
            await pipeline.receive(direct("om_2"))
            await backend.archive_agent(bot, archived=False)
            await pipeline.receive(direct("om_3"))
            await backend.archive_agent(bot)
            await pipeline.receive(direct("om_4"))
            await pipeline.receive(direct("om_5"))
        notices = [(notice.reply_to, notice.text) for notice in await backend.notices()]
        assert notices == [(each, WORDS["en"][Reply.AGENT_ARCHIVED]) for each in ("om_1", "om_4")]

    async def test_conversation_that_was_put_away_stays_silent(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1"))
            await backend.archive_sessions()
            await pipeline.receive(direct("om_2"))
        assert await backend.notices() == []

    # commands that come too late

    async def test_stale_command_is_held_and_asked_about(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/issue Fix the login", sent_at=await backend.sent(OLD)))
        assert await backend.filed() == []
        assert pipeline.outcomes == [(InboundOutcome.COMMAND_HELD, None)]
        (text,) = await _texts(backend)
        assert "12 min" in text
        assert "/issue Fix the login" in text
        assert "/confirm" in text

    async def test_young_command_runs_at_once(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/issue Fix the login", sent_at=await backend.sent(60)))
        assert len(await backend.filed()) == 1

    async def test_confirmed_issue_is_filed_once_with_its_own_description(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/issue Fix the login\nIt fails.", sent_at=await backend.sent(OLD)))
            await pipeline.receive(direct("om_2", "/confirm"))
            await pipeline.receive(direct("om_3", "/confirm"))
        (issue,) = await backend.filed()
        assert (issue.title, issue.description) == ("Fix the login", "It fails.")
        assert (await backend.notices())[1:] == [
            StoredNotice("oc_ou_ann", "om_2", "", CREATED),
            StoredNotice("oc_ou_ann", "om_3", "", NOTHING),
        ]

    async def test_confirmed_bare_issue_is_titled_by_what_came_before_it(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "the login is broken"))
            await pipeline.receive(direct("om_2", "/issue", sent_at=await backend.sent(OLD)))
            await pipeline.receive(direct("om_3", "/confirm"))
        assert [issue.title for issue in await backend.filed()] == ["the login is broken"]

    async def test_confirmed_fresh_start_begins_with_its_words(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/new start over", sent_at=await backend.sent(OLD)))
            await pipeline.receive(direct("om_2", "/confirm"))
        said = [(message.content, message.kind, message.generation) for message in await backend.messages()]
        assert said[-1] == ("start over", "text", 1)
        assert len(await backend.tasks()) == 1

    async def test_confirmed_bare_fresh_start_waits_for_the_next_message(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/new", sent_at=await backend.sent(OLD)))
            await pipeline.receive(direct("om_2", "/confirm"))
            await pipeline.receive(direct("om_3", "after"))
        assert (await _texts(backend))[-1] == FRESH
        assert (await backend.messages())[-1].generation == 1

    @pytest.mark.parametrize("between", ["never mind", "/new", "/new start over", "/issue"])
    async def test_anything_else_in_between_drops_what_was_held(self, backend: InboundBackend, between: str) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_0", "  "))
            await pipeline.receive(direct("om_1", "/issue Fix the login", sent_at=await backend.sent(OLD)))
            await pipeline.receive(direct("om_2", between))
            filed = len(await backend.filed())
            await pipeline.receive(direct("om_3", "/confirm"))
        assert (await _texts(backend))[-1] == NOTHING
        assert len(await backend.filed()) == filed

    async def test_held_command_is_its_senders_alone(self, backend: InboundBackend) -> None:
        bot = await _staffed(backend)
        await backend.bind(bot, "ou_bob")
        async with _opened(backend) as pipeline:
            await pipeline.receive(grouped("om_1", "/issue Fix the login", sent_at=await backend.sent(OLD)))
            await pipeline.receive(grouped("om_2", "hello", sender="ou_bob"))
            await pipeline.receive(grouped("om_3", "/confirm", sender="ou_bob"))
            assert await backend.filed() == []
            await pipeline.receive(grouped("om_4", "/confirm"))
        assert [issue.title for issue in await backend.filed()] == ["Fix the login"]

    async def test_newest_held_command_is_the_one_that_is_confirmed(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            for number in (1, 2):
                await pipeline.receive(
                    direct(f"om_{number}", f"/issue number {number}", sent_at=await backend.sent(OLD))
                )
            await pipeline.receive(direct("om_3", "/confirm"))
        assert [issue.title for issue in await backend.filed()] == ["number 2"]

    async def test_confirmation_after_an_hour_confirms_nothing(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/issue Fix the login", sent_at=await backend.sent(OLD)))
            await backend.age_held(3601)
            await pipeline.receive(direct("om_2", "/confirm"))
        assert await backend.filed() == []
        assert (await _texts(backend))[-1] == NOTHING

    async def test_confirmation_that_is_old_itself_confirms_nothing(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "/issue Fix the login", sent_at=await backend.sent(OLD)))
            await pipeline.receive(direct("om_2", "/confirm", sent_at=await backend.sent(OLD)))
            await pipeline.receive(direct("om_3", "/confirm"))
        assert await backend.filed() == []
        assert (await _texts(backend))[1:] == [NOTHING, NOTHING]

    async def test_stale_text_that_is_no_command_goes_to_the_agent(self, backend: InboundBackend) -> None:
        await _staffed(backend)
        async with _opened(backend) as pipeline:
            await pipeline.receive(direct("om_1", "hello", sent_at=await backend.sent(OLD)))
        assert len(await backend.tasks()) == 1
        assert await backend.notices() == []
