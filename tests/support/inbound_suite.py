"""What the inbound path promises, whichever store is behind it. Run from tests/unit/inbound and tests/integration."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from gateway.channel.channel import Verdict
from gateway.channel.message import ChatType, ReplyTo, Source
from gateway.core.claim import ClaimAnswer
from gateway.core.inbound import DropReason, InboundOutcome
from gateway.errors import RemoteProtocolError
from gateway.inbound.ports import Conversation, Drop, MessageClaim, PlainMessage, SessionGone, UserMessage
from gateway.work.tasks.sessions import Queueing
from support.inbound_backend import Bot, InboundBackend, ObservedPipeline, direct, grouped, open_pipeline

both_paths = pytest.mark.parametrize("fused", [True, False], ids=["fused", "stepwise"])

INGESTED = (InboundOutcome.INGESTED, None)


def _dropped(reason: DropReason) -> tuple[InboundOutcome, DropReason]:
    return InboundOutcome.DROPPED, reason


def _claim(bot: Bot, message_id: str = "om_1") -> MessageClaim:
    return MessageClaim(bot.installation_id, message_id, uuid4())


def _plain(message_id: str, text: str = "hello", *, sender: str = "ou_ann", chat: str = "oc_ou_ann") -> PlainMessage:
    return PlainMessage(uuid4(), "feishu", "cli_a", message_id, chat, sender, "", text, None)


async def _warm(backend: InboundBackend, pipeline: ObservedPipeline, *, sender: str = "ou_ann") -> Bot:
    """A bot, a bound member, and a session that exists because of a first message, whose traces are left in place."""
    bot = await backend.add_bot()
    await backend.bind(bot, sender)
    assert await pipeline.receive(direct("om_0", "first", sender=sender)) is Verdict.SETTLED
    return bot


class InboundSuite:
    # what is taken in

    @both_paths
    async def test_message_of_a_bound_member_is_stored_marked_and_queued(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        bot = await backend.add_bot()
        user = await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            for number in range(3):
                assert await pipeline.receive(direct(f"om_{number}", f"text {number}")) is Verdict.SETTLED
        messages = await backend.messages()
        assert [message.content for message in messages] == ["text 0", "text 1", "text 2"]
        assert {message.author_id for message in messages} == {user}
        assert all(row.processed_at for row in (await backend.claims()).values())
        assert [(task.status, task.initiator_id) for task in await backend.tasks()] == [("queued", user)]
        assert pipeline.outcomes == [INGESTED] * 3
        assert await backend.drops() == []

    @both_paths
    async def test_message_of_a_group_that_addresses_the_bot_is_ingested(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        bot = await backend.add_bot()
        await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            await pipeline.receive(grouped("om_1"))
            await pipeline.receive(grouped("om_2"))
        assert pipeline.outcomes == [INGESTED] * 2
        assert len(await backend.messages()) == 2

    @both_paths
    async def test_later_messages_join_the_waiting_run_and_a_started_run_gets_a_successor(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            await _warm(backend, pipeline)
            await pipeline.receive(direct("om_1"))
            assert [task.status for task in await backend.tasks()] == ["queued"]
            await backend.start_tasks()
            await pipeline.receive(direct("om_2"))
            assert [task.status for task in await backend.tasks()] == ["running", "queued"]

    @both_paths
    async def test_run_is_not_claimable_before_the_batch_window(self, backend: InboundBackend, fused: bool) -> None:
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            await _warm(backend, pipeline)
            await backend.start_tasks()
            await pipeline.receive(direct("om_1"))
        assert (await backend.tasks())[-1].wait_seconds == pytest.approx(3.0)

    @both_paths
    async def test_latest_sender_of_a_batch_initiates_the_run(self, backend: InboundBackend, fused: bool) -> None:
        bot = await backend.add_bot()
        await backend.bind(bot, "ou_ann")
        bob = await backend.bind(bot, "ou_bob")
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            await pipeline.receive(grouped("om_1"))
            await pipeline.receive(grouped("om_2", sender="ou_bob"))
        assert [task.initiator_id for task in await backend.tasks()] == [bob]

    @both_paths
    async def test_reply_target_follows_the_newest_message(self, backend: InboundBackend, fused: bool) -> None:
        bot = await backend.add_bot()
        await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            await pipeline.receive(grouped("om_1", thread="omt_1"))
            await pipeline.receive(grouped("om_2", thread="omt_1"))
        (session,) = await backend.sessions()
        assert (session.last_message_id, session.last_thread_id) == ("om_2", "omt_1")

    async def test_message_without_an_id_is_stored_unclaimed_and_leaves_the_reply_target(
        self, backend: InboundBackend
    ) -> None:
        async with open_pipeline(backend.store, fused=True) as pipeline:
            await _warm(backend, pipeline)
            await pipeline.receive(direct(""))
            await pipeline.receive(direct(""))
        assert len(await backend.messages()) == 3
        assert len(await backend.claims()) == 1
        (session,) = await backend.sessions()
        assert session.last_message_id == "om_0"

    # sessions

    async def test_session_of_a_direct_chat_belongs_to_its_sender(self, backend: InboundBackend) -> None:
        bot = await backend.add_bot()
        user = await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=False) as pipeline:
            await pipeline.receive(direct())
        (session,) = await backend.sessions()
        assert (session.creator_id, session.title, session.key) == (user, "Direct chat", "oc_ou_ann")
        assert session.config == {}

    async def test_session_of_a_group_belongs_to_the_installer(self, backend: InboundBackend) -> None:
        bot = await backend.add_bot()
        await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=False) as pipeline:
            await pipeline.receive(grouped())
        (session,) = await backend.sessions()
        assert (session.creator_id, session.title) == (bot.installer_id, "Group chat")

    async def test_topics_of_a_group_are_sessions_that_remember_the_real_chat(self, backend: InboundBackend) -> None:
        bot = await backend.add_bot()
        await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=True) as pipeline:
            for number, thread in enumerate(["", "omt_1", "omt_2", "omt_1"]):
                await pipeline.receive(grouped(f"om_{number}", thread=thread))
        sessions = {session.key: session.config for session in await backend.sessions()}
        assert sessions == {
            "oc_team": {},
            "oc_team:omt_1": {"chat_id": "oc_team"},
            "oc_team:omt_2": {"chat_id": "oc_team"},
        }

    async def test_stray_thread_id_in_a_direct_chat_changes_nothing(self, backend: InboundBackend) -> None:
        async with open_pipeline(backend.store, fused=True) as pipeline:
            await _warm(backend, pipeline)
            stray = Source("feishu", "oc_ou_ann", ChatType.P2P, "ou_ann", thread_id="omt_9")
            await pipeline.receive(direct("om_1", source=stray))
        (session,) = await backend.sessions()
        assert (session.last_message_id, session.last_thread_id) == ("om_1", None)

    async def test_first_messages_that_race_share_one_session(self, backend: InboundBackend) -> None:
        bot = await backend.add_bot()
        await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=True) as pipeline:
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(pipeline.receive, direct(f"om_{number}"))
        assert len(await backend.sessions()) == 1
        assert len(await backend.messages()) == 20
        assert len(await backend.tasks()) == 1

    async def test_conversation_whose_session_was_deleted_gets_a_new_one(self, backend: InboundBackend) -> None:
        async with open_pipeline(backend.store, fused=True) as pipeline:
            await _warm(backend, pipeline)
            await backend.delete_sessions()
            assert await pipeline.receive(direct("om_1", "again")) is Verdict.SETTLED
        (session,) = await backend.sessions()
        assert [(message.session_id, message.content) for message in await backend.messages()] == [
            (session.id, "again")
        ]

    async def test_append_to_a_session_that_is_gone_raises_and_leaves_the_claim_open(
        self, backend: InboundBackend
    ) -> None:
        bot = await backend.add_bot()
        user = await backend.bind(bot, "ou_ann")
        claim = _claim(bot)
        assert await backend.store.claim(claim) is ClaimAnswer.TAKEN
        with pytest.raises(SessionGone):
            await backend.store.append(UserMessage(claim.token, uuid4(), user, "x", "om_1", "", None), claim, {})
        assert await backend.store.release(claim)

    @pytest.mark.parametrize("words", ["hello", "/issue Fix it", "/new go", "/new", "/confirm"])
    async def test_message_that_meets_the_deletion_of_its_conversation_begins_the_next_one(
        self, backend: InboundBackend, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await backend.bind(await backend.add_bot(), "ou_ann")
        look_up, found = backend.store.ensure_session, []

        async def look_up_and_be_overtaken(conversation: Conversation) -> UUID:
            found.append(await look_up(conversation))
            if len(found) == 1:
                await backend.delete_sessions()
            return found[-1]

        monkeypatch.setattr(backend.store, "ensure_session", look_up_and_be_overtaken)
        async with open_pipeline(backend.store, fused=False, issues=backend.issues) as pipeline:
            assert await pipeline.receive(direct("om_1", words)) is Verdict.SETTLED
        assert [session.id for session in await backend.sessions()] == found[1:]
        assert len(await backend.messages()) == (words != "/new")
        assert len(await backend.filed()) == words.startswith("/issue")

    async def test_conversation_that_is_deleted_again_and_again_gives_the_claim_back(
        self, backend: InboundBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await backend.bind(await backend.add_bot(), "ou_ann")
        look_up = backend.store.ensure_session

        async def look_up_and_be_overtaken(conversation: Conversation) -> UUID:
            session_id = await look_up(conversation)
            await backend.delete_sessions()
            return session_id

        monkeypatch.setattr(backend.store, "ensure_session", look_up_and_be_overtaken)
        async with open_pipeline(backend.store, fused=False) as pipeline:
            with pytest.raises(SessionGone):
                await pipeline.receive(direct())
        assert await backend.claims() == {}

    # agents

    @both_paths
    async def test_agent_without_a_runtime_keeps_message_and_task(self, backend: InboundBackend, fused: bool) -> None:
        bot = await backend.add_bot(has_runtime=False)
        await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            await pipeline.receive(direct("om_1"))
            await pipeline.receive(direct("om_2"))
        assert pipeline.outcomes == [(InboundOutcome.AGENT_OFFLINE, None)] * 2
        assert len(await backend.messages()) == 2
        assert [task.status for task in await backend.tasks()] == ["queued"]

    @both_paths
    async def test_archived_agent_keeps_the_message_and_queues_nothing(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            bot = await _warm(backend, pipeline)
            await backend.start_tasks()
            await backend.archive_agent(bot)
            assert await pipeline.receive(direct("om_1")) is Verdict.SETTLED
        assert pipeline.outcomes[-1] == (InboundOutcome.AGENT_ARCHIVED, None)
        assert len(await backend.messages()) == 2
        assert [task.status for task in await backend.tasks()] == ["running"]

    @both_paths
    async def test_archived_session_keeps_the_message_and_stays_silent(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            await _warm(backend, pipeline)
            await backend.start_tasks()
            await backend.archive_sessions()
            await pipeline.receive(direct("om_1"))
        assert pipeline.outcomes[-1] == INGESTED
        assert len(await backend.messages()) == 2
        assert len(await backend.tasks()) == 1

    # what is dropped

    @both_paths
    async def test_unknown_installation_is_an_invalid_event_without_a_claim(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            assert await pipeline.receive(direct(app_id="cli_unknown")) is Verdict.SETTLED
        assert pipeline.outcomes == [_dropped(DropReason.INVALID_EVENT)]
        assert await backend.drops() == [(None, "om_1", "invalid_event")]
        assert await backend.claims() == {}

    @both_paths
    async def test_revoked_installation_drops_without_a_claim(self, backend: InboundBackend, fused: bool) -> None:
        bot = await backend.add_bot(revoked=True)
        await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            assert await pipeline.receive(direct()) is Verdict.SETTLED
        assert await backend.drops() == [(bot.installation_id, "om_1", "revoked_installation")]
        assert await backend.claims() == {}

    @both_paths
    @pytest.mark.parametrize(("chat_id", "sender"), [("", "ou_ann"), ("oc_1", "")])
    async def test_message_without_chat_or_sender_is_an_invalid_event(
        self, backend: InboundBackend, fused: bool, chat_id: str, sender: str
    ) -> None:
        bot = await backend.add_bot()
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            await pipeline.receive(direct(source=Source("feishu", chat_id, ChatType.P2P, sender)))
        assert await backend.drops() == [(bot.installation_id, "om_1", "invalid_event")]

    async def test_group_message_that_does_not_address_the_bot_is_dropped_and_marked(
        self, backend: InboundBackend
    ) -> None:
        bot = await backend.add_bot()
        await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=True) as pipeline:
            assert await pipeline.receive(grouped(addressed_to_bot=False)) is Verdict.SETTLED
        assert await backend.drops() == [(bot.installation_id, "om_1", "not_addressed_in_group")]
        assert [row.processed_at is not None for row in (await backend.claims()).values()] == [True]
        assert await backend.sessions() == []

    @pytest.mark.parametrize("thread", ["", "omt_1"], ids=["group", "topic"])
    @both_paths
    async def test_reply_to_a_message_of_the_bot_addresses_it(
        self, backend: InboundBackend, fused: bool, thread: str
    ) -> None:
        bot = await backend.add_bot()
        await backend.bind(bot, "ou_ann")
        await backend.speak(bot, "om_answer")
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            reply = grouped(addressed_to_bot=False, reply_to=ReplyTo("om_answer", "om_root"), thread=thread)
            assert await pipeline.receive(reply) is Verdict.SETTLED
        assert pipeline.outcomes == [INGESTED]
        assert [message.content for message in await backend.messages()] == ["hello"]
        assert await backend.drops() == []

    async def test_reply_to_anyone_else_in_a_group_leaves_no_content(self, backend: InboundBackend) -> None:
        bot, other = await backend.add_bot("cli_a"), await backend.add_bot("cli_b")
        await backend.bind(bot, "ou_ann")
        await backend.speak(other, "om_of_another_bot")
        await backend.speak(bot, "om_answer")
        quoted = ["om_of_a_person", "om_of_another_bot"]
        async with open_pipeline(backend.store, fused=True) as pipeline:
            for number, message_id in enumerate(quoted):
                # The first message of the tree does not count: only the one that was replied to.
                reply_to = ReplyTo(message_id, "om_answer")
                await pipeline.receive(grouped(f"om_{number}", addressed_to_bot=False, reply_to=reply_to))
        assert {drop[2] for drop in await backend.drops()} == {"not_addressed_in_group"}
        assert await backend.messages() == []
        assert await backend.sessions() == []

    async def test_reply_to_a_message_of_the_bot_passes_every_other_gate(self, backend: InboundBackend) -> None:
        bot = await backend.add_bot(allow_bots=True)
        await backend.bind(bot, "ou_bot")
        await backend.speak(bot, "om_answer")
        async with open_pipeline(backend.store, fused=True) as pipeline:
            reply: dict[str, Any] = {"addressed_to_bot": False, "reply_to": ReplyTo("om_answer")}
            await pipeline.receive(grouped("om_1", **reply))
            # Two bots that reply to each other would never end, so a bot has to mention this one.
            await pipeline.receive(grouped("om_2", sender="ou_bot", sender_is_bot=True, **reply))
        assert [drop[2] for drop in await backend.drops()] == ["unbound_user", "not_addressed_in_group"]
        assert await backend.prompts() == [(bot.installation_id, "ou_ann")]
        assert await backend.messages() == []

    async def test_duplicate_check_runs_before_the_group_filter(self, backend: InboundBackend) -> None:
        await backend.add_bot()
        async with open_pipeline(backend.store, fused=True) as pipeline:
            await pipeline.receive(grouped(addressed_to_bot=False))
            await pipeline.receive(grouped(addressed_to_bot=False))
            assert pipeline.outcomes[-1] == _dropped(DropReason.DUPLICATE)
        assert [drop[2] for drop in await backend.drops()] == ["not_addressed_in_group"]

    async def test_unusable_event_is_recorded_without_a_claim_and_without_its_words(
        self, backend: InboundBackend
    ) -> None:
        bot = await backend.add_bot()
        await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=True) as pipeline:
            assert await pipeline.receive(direct(problem="an event of another app")) is Verdict.SETTLED
            assert await backend.drops() == [(bot.installation_id, "om_1", "invalid_event")]
            assert await backend.claims() == {}
            assert await backend.messages() == []
            # The message itself may still come, under the same id.
            await pipeline.receive(direct())
        assert pipeline.outcomes[-1] == INGESTED
        assert len(await backend.messages()) == 1

    async def test_same_message_id_is_judged_by_every_bot_on_its_own(self, backend: InboundBackend) -> None:
        first = await backend.add_bot("cli_a")
        second = await backend.add_bot("cli_b")
        await backend.bind(first, "ou_ann")
        await backend.bind(second, "ou_ann")
        async with open_pipeline(backend.store, fused=True) as pipeline:
            await pipeline.receive(grouped(app_id="cli_a", addressed_to_bot=False))
            await pipeline.receive(grouped(app_id="cli_b"))
        assert pipeline.outcomes == [_dropped(DropReason.NOT_ADDRESSED_IN_GROUP), INGESTED]
        assert len(await backend.messages()) == 1

    @pytest.mark.parametrize("allowed", [False, True])
    async def test_bot_sender_is_taken_in_only_where_bots_are_allowed(
        self, backend: InboundBackend, allowed: bool
    ) -> None:
        bot = await backend.add_bot(allow_bots=allowed)
        await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=True) as pipeline:
            assert await pipeline.receive(direct(sender_is_bot=True)) is Verdict.SETTLED
        assert pipeline.outcomes == [INGESTED if allowed else _dropped(DropReason.SENDER_IS_BOT)]
        assert len(await backend.messages()) == int(allowed)

    async def test_bot_that_does_not_say_who_it_is_is_dropped_as_a_bot(self, backend: InboundBackend) -> None:
        bot = await backend.add_bot()
        async with open_pipeline(backend.store, fused=True) as pipeline:
            assert await pipeline.receive(grouped(sender="", sender_is_bot=True)) is Verdict.SETTLED
        assert await backend.drops() == [(bot.installation_id, "om_1", "sender_is_bot")]

    @both_paths
    async def test_unbound_sender_needs_binding_and_leaves_no_content(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            bot = await _warm(backend, pipeline)
            stranger = Source("feishu", "oc_ou_ann", ChatType.P2P, "ou_stranger")
            assert await pipeline.receive(direct("om_1", "secret", source=stranger)) is Verdict.SETTLED
        assert pipeline.outcomes[-1] == (InboundOutcome.NEEDS_BINDING, DropReason.UNBOUND_USER)
        assert await backend.drops() == [(bot.installation_id, "om_1", "unbound_user")]
        assert [message.content for message in await backend.messages()] == ["first"]
        assert all(row.processed_at for row in (await backend.claims()).values())

    # who is asked to bind

    @both_paths
    async def test_unbound_person_is_asked_to_bind_once_in_five_minutes(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        bot = await backend.add_bot()
        asked = (bot.installation_id, "ou_eve")
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            for number in range(3):
                await pipeline.receive(direct(f"om_{number}", sender="ou_eve"))
            assert await backend.prompts() == [asked]
            await backend.age_prompts(299)
            await pipeline.receive(direct("om_3", sender="ou_eve"))
            assert await backend.prompts() == [asked]
            await backend.age_prompts(1)
            await pipeline.receive(direct("om_4", sender="ou_eve"))
        assert await backend.prompts() == [asked, asked]
        assert len(await backend.drops()) == 5

    async def test_unbound_person_who_addresses_the_bot_in_a_group_is_asked_in_private(
        self, backend: InboundBackend
    ) -> None:
        bot = await backend.add_bot()
        async with open_pipeline(backend.store, fused=True) as pipeline:
            await pipeline.receive(grouped("om_1", sender="ou_eve"))
        assert await backend.prompts() == [(bot.installation_id, "ou_eve")]

    async def test_people_of_one_bot_and_bots_of_one_person_are_asked_apart(self, backend: InboundBackend) -> None:
        first, second = await backend.add_bot("cli_a"), await backend.add_bot("cli_b")
        async with open_pipeline(backend.store, fused=True) as pipeline:
            await pipeline.receive(direct("om_1", sender="ou_eve"))
            await pipeline.receive(direct("om_2", sender="ou_bob"))
            await pipeline.receive(direct("om_1", sender="ou_eve", app_id="cli_b"))
        assert await backend.prompts() == [
            (first.installation_id, "ou_eve"),
            (first.installation_id, "ou_bob"),
            (second.installation_id, "ou_eve"),
        ]

    async def test_person_who_writes_many_messages_at_once_is_asked_once(self, backend: InboundBackend) -> None:
        bot = await backend.add_bot()
        async with open_pipeline(backend.store, fused=True) as pipeline, trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(pipeline.receive, direct(f"om_{number}", sender="ou_eve"))
        assert await backend.prompts() == [(bot.installation_id, "ou_eve")]

    async def test_nobody_else_is_asked_to_bind(self, backend: InboundBackend) -> None:
        bot = await backend.add_bot(allow_bots=True)
        await backend.bind(bot, "ou_gone", member=False)
        revoked = await backend.add_bot("cli_revoked", revoked=True)
        async with open_pipeline(backend.store, fused=True) as pipeline:
            await pipeline.receive(direct("om_1", sender="ou_gone"))
            await pipeline.receive(direct("om_2", sender="ou_robot", sender_is_bot=True))
            await pipeline.receive(grouped("om_3", sender="ou_eve", addressed_to_bot=False))
            await pipeline.receive(direct("om_4", sender="ou_eve", app_id=revoked.app_id))
            await pipeline.receive(direct("om_5", sender="ou_eve", app_id="cli_unknown"))
        assert len(await backend.drops()) == 5
        assert await backend.prompts() == []

    async def test_lost_claim_asks_nobody(self, backend: InboundBackend) -> None:
        bot = await backend.add_bot()
        drop = Drop(bot.installation_id, "feishu", "oc_1", "", "", "om_1", DropReason.UNBOUND_USER, "ou_eve")
        assert not await backend.store.record_drop(drop, _claim(bot))
        assert await backend.prompts() == []

    @both_paths
    async def test_sender_who_left_the_workspace_is_dropped(self, backend: InboundBackend, fused: bool) -> None:
        bot = await backend.add_bot()
        user = await backend.bind(bot, "ou_ann")
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            await pipeline.receive(direct("om_0"))
            await backend.remove_member(bot, user)
            await pipeline.receive(direct("om_1"))
        assert pipeline.outcomes[-1] == _dropped(DropReason.NON_WORKSPACE_MEMBER)
        assert await backend.drops() == [(bot.installation_id, "om_1", "non_workspace_member")]
        assert len(await backend.messages()) == 1

    # claims

    @both_paths
    async def test_processed_message_is_settled_again_as_a_duplicate(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            await _warm(backend, pipeline)
            for _ in range(2):
                assert await pipeline.receive(direct("om_1")) is Verdict.SETTLED
        assert pipeline.outcomes[1:] == [INGESTED, _dropped(DropReason.DUPLICATE)]
        assert await backend.drops() == []
        assert len(await backend.messages()) == 2

    @both_paths
    async def test_message_in_flight_elsewhere_is_asked_for_again_without_a_trace(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            bot = await _warm(backend, pipeline)
            assert await backend.store.claim(_claim(bot)) is ClaimAnswer.TAKEN
            await backend.age_claims(50)
            assert await pipeline.receive(direct("om_1")) is Verdict.REDELIVER
        assert pipeline.outcomes[-1] == _dropped(DropReason.DUPLICATE)
        assert len(await backend.messages()) == 1
        assert await backend.drops() == []

    @both_paths
    async def test_claim_left_in_flight_for_a_minute_is_retaken_with_a_new_token(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            bot = await _warm(backend, pipeline)
            abandoned = _claim(bot)
            await backend.store.claim(abandoned)
            await backend.age_claims(61)
            assert await pipeline.receive(direct("om_1")) is Verdict.SETTLED
        assert pipeline.outcomes[-1] == INGESTED
        assert (await backend.claims())[(bot.installation_id, "om_1")].token != abandoned.token
        assert not await backend.store.release(abandoned)

    async def test_slow_worker_whose_claim_was_retaken_writes_nothing(self, backend: InboundBackend) -> None:
        async with open_pipeline(backend.store, fused=False) as pipeline:
            bot = await _warm(backend, pipeline)
        (session,) = await backend.sessions()
        slow, quick = _claim(bot), _claim(bot)
        assert await backend.store.claim(slow) is ClaimAnswer.TAKEN
        await backend.age_claims(61)
        assert await backend.store.claim(quick) is ClaimAnswer.TAKEN
        author = (await backend.messages())[0].author_id
        assert author is not None
        before = await backend.sessions(), await backend.tasks()
        late = UserMessage(slow.token, session.id, author, "late", "om_1", "", None)
        assert await backend.store.append(late, slow, {}) is None
        assert (await backend.sessions(), await backend.tasks()) == before
        assert not await backend.store.release(slow)
        assert not await backend.store.record_drop(_drop(bot), slow)
        assert await backend.store.append(
            UserMessage(quick.token, session.id, author, "on time", "om_1", "", None), quick, {}
        )
        assert [message.content for message in await backend.messages()] == ["first", "on time"]
        assert await backend.drops() == []

    async def test_released_claim_is_retaken_at_once(self, backend: InboundBackend) -> None:
        bot = await backend.add_bot()
        first, second = _claim(bot), _claim(bot)
        await backend.store.claim(first)
        assert await backend.store.claim(second) is ClaimAnswer.HELD
        assert await backend.store.release(first)
        assert await backend.store.claim(second) is ClaimAnswer.TAKEN
        assert not await backend.store.release(first)

    async def test_processed_claim_is_final(self, backend: InboundBackend) -> None:
        bot = await backend.add_bot()
        claim = _claim(bot)
        await backend.store.claim(claim)
        assert await backend.store.record_drop(_drop(bot), claim)
        await backend.age_claims(3600)
        assert not await backend.store.release(claim)
        assert not await backend.store.record_drop(_drop(bot), claim)
        assert await backend.store.claim(_claim(bot)) is ClaimAnswer.PROCESSED
        assert await backend.store.is_processed(claim)
        assert len(await backend.drops()) == 1

    # the shared statement

    async def test_ingest_takes_the_first_of_two_equal_messages_in_one_batch(self, backend: InboundBackend) -> None:
        async with open_pipeline(backend.store, fused=False) as pipeline:
            await _warm(backend, pipeline)
        first, second = _plain("om_1", "one"), _plain("om_1", "two")
        assert await backend.store.ingest([first, second]) == {first.token: Queueing.QUEUED}
        assert [message.content for message in await backend.messages()] == ["first", "one"]

    async def test_ingest_leaves_no_trace_of_what_it_does_not_take(self, backend: InboundBackend) -> None:
        async with open_pipeline(backend.store, fused=False) as pipeline:
            bot = await _warm(backend, pipeline)
        await backend.store.claim(_claim(bot, "om_held"))
        before = await backend.claims()
        refused = [
            _plain("om_held"),
            _plain("om_0"),
            _plain("om_1", sender="ou_stranger"),
            _plain("om_2", chat="oc_new"),
            PlainMessage(uuid4(), "feishu", "cli_unknown", "om_3", "oc_ou_ann", "ou_ann", "", "x", None),
            PlainMessage(uuid4(), "other", "cli_a", "om_4", "oc_ou_ann", "ou_ann", "", "x", None),
        ]
        assert await backend.store.ingest(refused) == {}
        assert await backend.claims() == before
        assert len(await backend.messages()) == 1

    async def test_ingest_leaves_a_silent_runtime_to_the_steps_until_its_conversation_was_told(
        self, backend: InboundBackend
    ) -> None:
        async with open_pipeline(backend.store, fused=False) as pipeline:
            bot = await _warm(backend, pipeline)
            await backend.hear_runtime(bot, heard=False)
            early, late = _plain("om_1", "one"), _plain("om_3", "three")
            assert await backend.store.ingest([early]) == {}
            await pipeline.receive(direct("om_2", "two"))
            assert list(await backend.store.ingest([late])) == [late.token]
        assert [message.content for message in await backend.messages()] == ["first", "two", "three"]
        assert len(await backend.notices()) == 1

    async def test_ingest_keeps_the_order_given_and_queues_one_task_per_session(self, backend: InboundBackend) -> None:
        async with open_pipeline(backend.store, fused=False) as pipeline:
            bot = await _warm(backend, pipeline)
            await backend.bind(bot, "ou_bob")
            await pipeline.receive(direct("om_b", "bob", sender="ou_bob"))
        await backend.start_tasks()
        batch = [
            _plain(f"om_{number + 10}", str(number), sender=sender, chat=f"oc_{sender}")
            for number, sender in enumerate(["ou_ann", "ou_bob"] * 20)
        ]
        assert len(await backend.store.ingest(batch)) == 40
        by_session: dict[object, list[int]] = {}
        for message in (await backend.messages())[2:]:
            by_session.setdefault(message.session_id, []).append(int(message.content))
        assert sorted(map(tuple, by_session.values())) == [tuple(range(0, 40, 2)), tuple(range(1, 40, 2))]
        assert Counter(task.status for task in await backend.tasks()) == {"running": 2, "queued": 2}
        assert {session.last_message_id for session in await backend.sessions()} == {"om_48", "om_49"}

    @pytest.mark.parametrize("text", ["bad \ud800 text", "bad \0 text"])
    @both_paths
    async def test_poison_text_fails_alone_and_its_claim_is_given_back(
        self, backend: InboundBackend, fused: bool, text: str
    ) -> None:
        failures: list[str] = []

        async def deliver(number: int) -> None:
            try:
                await pipeline.receive(direct(f"om_{number + 1}", text if number == 5 else "good"))
            except RemoteProtocolError as error:
                failures.append(str(error))

        async with open_pipeline(backend.store, fused=fused) as pipeline:
            bot = await _warm(backend, pipeline)
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(deliver, number)
        assert len(failures) == 1
        assert "bad" not in failures[0]
        assert [message.content for message in await backend.messages()] == ["first", *["good"] * 11]
        assert (bot.installation_id, "om_6") not in await backend.claims()

    @both_paths
    async def test_200_deliveries_of_50_messages_make_exactly_50_rows(
        self, backend: InboundBackend, fused: bool
    ) -> None:
        async with open_pipeline(backend.store, fused=fused) as pipeline:
            bot = await backend.add_bot()
            for person in range(5):
                await backend.bind(bot, f"ou_{person}")
            verdicts: list[Verdict] = []

            async def deliver(number: int) -> None:
                verdicts.append(await pipeline.receive(direct(f"om_{number}", str(number), sender=f"ou_{number % 5}")))

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    for number in range(50):
                        nursery.start_soon(deliver, number)
        assert sorted(int(message.content) for message in await backend.messages()) == list(range(50))
        assert len(await backend.sessions()) == len(await backend.tasks()) == 5
        assert len(await backend.claims()) == 50
        assert pipeline.outcomes.count(INGESTED) == 50
        assert len(verdicts) == 200
        assert verdicts.count(Verdict.SETTLED) >= 50


def _drop(bot: Bot, message_id: str = "om_1") -> Drop:
    return Drop(bot.installation_id, "feishu", "oc_1", "", "", message_id, DropReason.NOT_ADDRESSED_IN_GROUP)
