"""What the inbound path promises, whichever store is behind it. Run from tests/unit/inbound and tests/integration."""

from __future__ import annotations

from collections import Counter
from uuid import UUID, uuid4

import pytest
import trio

from gateway.channel.channel import Verdict
from gateway.channel.message import ChatType, Source
from gateway.core.claim import ClaimAnswer
from gateway.core.inbound import DropReason, InboundOutcome
from gateway.errors import RemoteProtocolError
from gateway.inbound.ports import Conversation, Drop, MessageClaim, PlainMessage, SessionGone, UserMessage
from gateway.work.tasks.sessions import Queueing
from support.inbound_world import Bot, Desk, InboundWorld, direct, grouped, open_desk

both_paths = pytest.mark.parametrize("fused", [True, False], ids=["fused", "stepwise"])

INGESTED = (InboundOutcome.INGESTED, None)


def _dropped(reason: DropReason) -> tuple[InboundOutcome, DropReason]:
    return InboundOutcome.DROPPED, reason


def _claim(bot: Bot, message_id: str = "om_1") -> MessageClaim:
    return MessageClaim(bot.installation_id, message_id, uuid4())


def _plain(message_id: str, text: str = "hello", *, sender: str = "ou_ann", chat: str = "oc_ou_ann") -> PlainMessage:
    return PlainMessage(uuid4(), "feishu", "cli_a", message_id, chat, sender, "", text, None)


async def _warm(world: InboundWorld, desk: Desk, *, sender: str = "ou_ann") -> Bot:
    """A bot, a bound member, and a session that exists because of a first message, whose traces are left in place."""
    bot = await world.add_bot()
    await world.bind(bot, sender)
    assert await desk.receive(direct("om_0", "first", sender=sender)) is Verdict.SETTLED
    return bot


class InboundSuite:
    # what is taken in

    @both_paths
    async def test_message_of_a_bound_member_is_stored_marked_and_queued(
        self, world: InboundWorld, fused: bool
    ) -> None:
        bot = await world.add_bot()
        user = await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=fused) as desk:
            for number in range(3):
                assert await desk.receive(direct(f"om_{number}", f"text {number}")) is Verdict.SETTLED
        messages = await world.messages()
        assert [message.content for message in messages] == ["text 0", "text 1", "text 2"]
        assert {message.author_id for message in messages} == {user}
        assert all(row.processed_at for row in (await world.claims()).values())
        assert [(task.status, task.initiator_id) for task in await world.tasks()] == [("queued", user)]
        assert desk.outcomes == [INGESTED] * 3
        assert await world.drops() == []

    @both_paths
    async def test_message_of_a_group_that_addresses_the_bot_is_ingested(
        self, world: InboundWorld, fused: bool
    ) -> None:
        bot = await world.add_bot()
        await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=fused) as desk:
            await desk.receive(grouped("om_1"))
            await desk.receive(grouped("om_2"))
        assert desk.outcomes == [INGESTED] * 2
        assert len(await world.messages()) == 2

    @both_paths
    async def test_later_messages_join_the_waiting_run_and_a_started_run_gets_a_successor(
        self, world: InboundWorld, fused: bool
    ) -> None:
        async with open_desk(world.store, fused=fused) as desk:
            await _warm(world, desk)
            await desk.receive(direct("om_1"))
            assert [task.status for task in await world.tasks()] == ["queued"]
            await world.start_tasks()
            await desk.receive(direct("om_2"))
            assert [task.status for task in await world.tasks()] == ["running", "queued"]

    @both_paths
    async def test_run_is_not_claimable_before_the_batch_window(self, world: InboundWorld, fused: bool) -> None:
        async with open_desk(world.store, fused=fused) as desk:
            await _warm(world, desk)
            await world.start_tasks()
            await desk.receive(direct("om_1"))
        assert (await world.tasks())[-1].wait_seconds == pytest.approx(3.0)

    @both_paths
    async def test_latest_sender_of_a_batch_initiates_the_run(self, world: InboundWorld, fused: bool) -> None:
        bot = await world.add_bot()
        await world.bind(bot, "ou_ann")
        bob = await world.bind(bot, "ou_bob")
        async with open_desk(world.store, fused=fused) as desk:
            await desk.receive(grouped("om_1"))
            await desk.receive(grouped("om_2", sender="ou_bob"))
        assert [task.initiator_id for task in await world.tasks()] == [bob]

    @both_paths
    async def test_reply_target_follows_the_newest_message(self, world: InboundWorld, fused: bool) -> None:
        bot = await world.add_bot()
        await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=fused) as desk:
            await desk.receive(grouped("om_1", thread="omt_1"))
            await desk.receive(grouped("om_2", thread="omt_1"))
        (session,) = await world.sessions()
        assert (session.last_message_id, session.last_thread_id) == ("om_2", "omt_1")

    async def test_message_without_an_id_is_stored_unclaimed_and_leaves_the_reply_target(
        self, world: InboundWorld
    ) -> None:
        async with open_desk(world.store, fused=True) as desk:
            await _warm(world, desk)
            await desk.receive(direct(""))
            await desk.receive(direct(""))
        assert len(await world.messages()) == 3
        assert len(await world.claims()) == 1
        (session,) = await world.sessions()
        assert session.last_message_id == "om_0"

    # sessions

    async def test_session_of_a_direct_chat_belongs_to_its_sender(self, world: InboundWorld) -> None:
        bot = await world.add_bot()
        user = await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=False) as desk:
            await desk.receive(direct())
        (session,) = await world.sessions()
        assert (session.creator_id, session.title, session.key) == (user, "Direct chat", "oc_ou_ann")
        assert session.config == {}

    async def test_session_of_a_group_belongs_to_the_installer(self, world: InboundWorld) -> None:
        bot = await world.add_bot()
        await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=False) as desk:
            await desk.receive(grouped())
        (session,) = await world.sessions()
        assert (session.creator_id, session.title) == (bot.installer_id, "Group chat")

    async def test_topics_of_a_group_are_sessions_that_remember_the_real_chat(self, world: InboundWorld) -> None:
        bot = await world.add_bot()
        await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=True) as desk:
            for number, thread in enumerate(["", "omt_1", "omt_2", "omt_1"]):
                await desk.receive(grouped(f"om_{number}", thread=thread))
        sessions = {session.key: session.config for session in await world.sessions()}
        assert sessions == {
            "oc_team": {},
            "oc_team:omt_1": {"chat_id": "oc_team"},
            "oc_team:omt_2": {"chat_id": "oc_team"},
        }

    async def test_stray_thread_id_in_a_direct_chat_changes_nothing(self, world: InboundWorld) -> None:
        async with open_desk(world.store, fused=True) as desk:
            await _warm(world, desk)
            stray = Source("feishu", "oc_ou_ann", ChatType.P2P, "ou_ann", thread_id="omt_9")
            await desk.receive(direct("om_1", source=stray))
        (session,) = await world.sessions()
        assert (session.last_message_id, session.last_thread_id) == ("om_1", None)

    async def test_first_messages_that_race_share_one_session(self, world: InboundWorld) -> None:
        bot = await world.add_bot()
        await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=True) as desk:
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(desk.receive, direct(f"om_{number}"))
        assert len(await world.sessions()) == 1
        assert len(await world.messages()) == 20
        assert len(await world.tasks()) == 1

    async def test_conversation_whose_session_was_deleted_gets_a_new_one(self, world: InboundWorld) -> None:
        async with open_desk(world.store, fused=True) as desk:
            await _warm(world, desk)
            await world.delete_sessions()
            assert await desk.receive(direct("om_1", "again")) is Verdict.SETTLED
        (session,) = await world.sessions()
        assert [(message.session_id, message.content) for message in await world.messages()] == [(session.id, "again")]

    async def test_append_to_a_session_that_is_gone_raises_and_leaves_the_claim_open(self, world: InboundWorld) -> None:
        bot = await world.add_bot()
        user = await world.bind(bot, "ou_ann")
        claim = _claim(bot)
        assert await world.store.claim(claim) is ClaimAnswer.TAKEN
        with pytest.raises(SessionGone):
            await world.store.append(UserMessage(claim.token, uuid4(), user, "x", "om_1", "", None), claim, {})
        assert await world.store.release(claim)

    @pytest.mark.parametrize("words", ["hello", "/issue Fix it", "/new go", "/new", "/confirm"])
    async def test_message_that_meets_the_deletion_of_its_conversation_begins_the_next_one(
        self, world: InboundWorld, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.bind(await world.add_bot(), "ou_ann")
        look_up, found = world.store.ensure_session, []

        async def look_up_and_be_overtaken(conversation: Conversation) -> UUID:
            found.append(await look_up(conversation))
            if len(found) == 1:
                await world.delete_sessions()
            return found[-1]

        monkeypatch.setattr(world.store, "ensure_session", look_up_and_be_overtaken)
        async with open_desk(world.store, fused=False, issues=world.issues) as desk:
            assert await desk.receive(direct("om_1", words)) is Verdict.SETTLED
        assert [session.id for session in await world.sessions()] == found[1:]
        assert len(await world.messages()) == (words != "/new")
        assert len(await world.filed()) == words.startswith("/issue")

    async def test_conversation_that_is_deleted_again_and_again_gives_the_claim_back(
        self, world: InboundWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.bind(await world.add_bot(), "ou_ann")
        look_up = world.store.ensure_session

        async def look_up_and_be_overtaken(conversation: Conversation) -> UUID:
            session_id = await look_up(conversation)
            await world.delete_sessions()
            return session_id

        monkeypatch.setattr(world.store, "ensure_session", look_up_and_be_overtaken)
        async with open_desk(world.store, fused=False) as desk:
            with pytest.raises(SessionGone):
                await desk.receive(direct())
        assert await world.claims() == {}

    # agents

    @both_paths
    async def test_agent_without_a_runtime_keeps_message_and_task(self, world: InboundWorld, fused: bool) -> None:
        bot = await world.add_bot(has_runtime=False)
        await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=fused) as desk:
            await desk.receive(direct("om_1"))
            await desk.receive(direct("om_2"))
        assert desk.outcomes == [(InboundOutcome.AGENT_OFFLINE, None)] * 2
        assert len(await world.messages()) == 2
        assert [task.status for task in await world.tasks()] == ["queued"]

    @both_paths
    async def test_archived_agent_keeps_the_message_and_queues_nothing(self, world: InboundWorld, fused: bool) -> None:
        async with open_desk(world.store, fused=fused) as desk:
            bot = await _warm(world, desk)
            await world.start_tasks()
            await world.archive_agent(bot)
            assert await desk.receive(direct("om_1")) is Verdict.SETTLED
        assert desk.outcomes[-1] == (InboundOutcome.AGENT_ARCHIVED, None)
        assert len(await world.messages()) == 2
        assert [task.status for task in await world.tasks()] == ["running"]

    @both_paths
    async def test_archived_session_keeps_the_message_and_stays_silent(self, world: InboundWorld, fused: bool) -> None:
        async with open_desk(world.store, fused=fused) as desk:
            await _warm(world, desk)
            await world.start_tasks()
            await world.archive_sessions()
            await desk.receive(direct("om_1"))
        assert desk.outcomes[-1] == INGESTED
        assert len(await world.messages()) == 2
        assert len(await world.tasks()) == 1

    # what is dropped

    @both_paths
    async def test_unknown_installation_is_an_invalid_event_without_a_claim(
        self, world: InboundWorld, fused: bool
    ) -> None:
        async with open_desk(world.store, fused=fused) as desk:
            assert await desk.receive(direct(app_id="cli_unknown")) is Verdict.SETTLED
        assert desk.outcomes == [_dropped(DropReason.INVALID_EVENT)]
        assert await world.drops() == [(None, "om_1", "invalid_event")]
        assert await world.claims() == {}

    @both_paths
    async def test_revoked_installation_drops_without_a_claim(self, world: InboundWorld, fused: bool) -> None:
        bot = await world.add_bot(revoked=True)
        await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=fused) as desk:
            assert await desk.receive(direct()) is Verdict.SETTLED
        assert await world.drops() == [(bot.installation_id, "om_1", "revoked_installation")]
        assert await world.claims() == {}

    @both_paths
    @pytest.mark.parametrize(("chat_id", "sender"), [("", "ou_ann"), ("oc_1", "")])
    async def test_message_without_chat_or_sender_is_an_invalid_event(
        self, world: InboundWorld, fused: bool, chat_id: str, sender: str
    ) -> None:
        bot = await world.add_bot()
        async with open_desk(world.store, fused=fused) as desk:
            await desk.receive(direct(source=Source("feishu", chat_id, ChatType.P2P, sender)))
        assert await world.drops() == [(bot.installation_id, "om_1", "invalid_event")]

    async def test_group_message_that_does_not_address_the_bot_is_dropped_and_marked(self, world: InboundWorld) -> None:
        bot = await world.add_bot()
        await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=True) as desk:
            assert await desk.receive(grouped(addressed_to_bot=False)) is Verdict.SETTLED
        assert await world.drops() == [(bot.installation_id, "om_1", "not_addressed_in_group")]
        assert [row.processed_at is not None for row in (await world.claims()).values()] == [True]
        assert await world.sessions() == []

    async def test_duplicate_check_runs_before_the_group_filter(self, world: InboundWorld) -> None:
        await world.add_bot()
        async with open_desk(world.store, fused=True) as desk:
            await desk.receive(grouped(addressed_to_bot=False))
            await desk.receive(grouped(addressed_to_bot=False))
        assert [drop[2] for drop in await world.drops()] == ["not_addressed_in_group", "duplicate"]

    async def test_same_message_id_is_judged_by_every_bot_on_its_own(self, world: InboundWorld) -> None:
        first = await world.add_bot("cli_a")
        second = await world.add_bot("cli_b")
        await world.bind(first, "ou_ann")
        await world.bind(second, "ou_ann")
        async with open_desk(world.store, fused=True) as desk:
            await desk.receive(grouped(app_id="cli_a", addressed_to_bot=False))
            await desk.receive(grouped(app_id="cli_b"))
        assert desk.outcomes == [_dropped(DropReason.NOT_ADDRESSED_IN_GROUP), INGESTED]
        assert len(await world.messages()) == 1

    @pytest.mark.parametrize("allowed", [False, True])
    async def test_bot_sender_is_taken_in_only_where_bots_are_allowed(self, world: InboundWorld, allowed: bool) -> None:
        bot = await world.add_bot(allow_bots=allowed)
        await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=True) as desk:
            assert await desk.receive(direct(sender_is_bot=True)) is Verdict.SETTLED
        assert desk.outcomes == [INGESTED if allowed else _dropped(DropReason.SENDER_IS_BOT)]
        assert len(await world.messages()) == int(allowed)

    async def test_bot_that_does_not_say_who_it_is_is_dropped_as_a_bot(self, world: InboundWorld) -> None:
        bot = await world.add_bot()
        async with open_desk(world.store, fused=True) as desk:
            assert await desk.receive(grouped(sender="", sender_is_bot=True)) is Verdict.SETTLED
        assert await world.drops() == [(bot.installation_id, "om_1", "sender_is_bot")]

    @both_paths
    async def test_unbound_sender_needs_binding_and_leaves_no_content(self, world: InboundWorld, fused: bool) -> None:
        async with open_desk(world.store, fused=fused) as desk:
            bot = await _warm(world, desk)
            stranger = Source("feishu", "oc_ou_ann", ChatType.P2P, "ou_stranger")
            assert await desk.receive(direct("om_1", "secret", source=stranger)) is Verdict.SETTLED
        assert desk.outcomes[-1] == (InboundOutcome.NEEDS_BINDING, DropReason.UNBOUND_USER)
        assert await world.drops() == [(bot.installation_id, "om_1", "unbound_user")]
        assert [message.content for message in await world.messages()] == ["first"]
        assert all(row.processed_at for row in (await world.claims()).values())

    # who is asked to bind

    @both_paths
    async def test_unbound_person_is_asked_to_bind_once_in_five_minutes(self, world: InboundWorld, fused: bool) -> None:
        bot = await world.add_bot()
        asked = (bot.installation_id, "ou_eve")
        async with open_desk(world.store, fused=fused) as desk:
            for number in range(3):
                await desk.receive(direct(f"om_{number}", sender="ou_eve"))
            assert await world.prompts() == [asked]
            await world.age_prompts(299)
            await desk.receive(direct("om_3", sender="ou_eve"))
            assert await world.prompts() == [asked]
            await world.age_prompts(1)
            await desk.receive(direct("om_4", sender="ou_eve"))
        assert await world.prompts() == [asked, asked]
        assert len(await world.drops()) == 5

    async def test_unbound_person_who_addresses_the_bot_in_a_group_is_asked_in_private(
        self, world: InboundWorld
    ) -> None:
        bot = await world.add_bot()
        async with open_desk(world.store, fused=True) as desk:
            await desk.receive(grouped("om_1", sender="ou_eve"))
        assert await world.prompts() == [(bot.installation_id, "ou_eve")]

    async def test_people_of_one_bot_and_bots_of_one_person_are_asked_apart(self, world: InboundWorld) -> None:
        first, second = await world.add_bot("cli_a"), await world.add_bot("cli_b")
        async with open_desk(world.store, fused=True) as desk:
            await desk.receive(direct("om_1", sender="ou_eve"))
            await desk.receive(direct("om_2", sender="ou_bob"))
            await desk.receive(direct("om_1", sender="ou_eve", app_id="cli_b"))
        assert await world.prompts() == [
            (first.installation_id, "ou_eve"),
            (first.installation_id, "ou_bob"),
            (second.installation_id, "ou_eve"),
        ]

    async def test_person_who_writes_many_messages_at_once_is_asked_once(self, world: InboundWorld) -> None:
        bot = await world.add_bot()
        async with open_desk(world.store, fused=True) as desk, trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(desk.receive, direct(f"om_{number}", sender="ou_eve"))
        assert await world.prompts() == [(bot.installation_id, "ou_eve")]

    async def test_nobody_else_is_asked_to_bind(self, world: InboundWorld) -> None:
        bot = await world.add_bot(allow_bots=True)
        await world.bind(bot, "ou_gone", member=False)
        revoked = await world.add_bot("cli_revoked", revoked=True)
        async with open_desk(world.store, fused=True) as desk:
            await desk.receive(direct("om_1", sender="ou_gone"))
            await desk.receive(direct("om_2", sender="ou_robot", sender_is_bot=True))
            await desk.receive(grouped("om_3", sender="ou_eve", addressed_to_bot=False))
            await desk.receive(direct("om_4", sender="ou_eve", app_id=revoked.app_id))
            await desk.receive(direct("om_5", sender="ou_eve", app_id="cli_unknown"))
        assert len(await world.drops()) == 5
        assert await world.prompts() == []

    async def test_lost_claim_asks_nobody(self, world: InboundWorld) -> None:
        bot = await world.add_bot()
        drop = Drop(bot.installation_id, "feishu", "oc_1", "", "", "om_1", DropReason.UNBOUND_USER, "ou_eve")
        assert not await world.store.record_drop(drop, _claim(bot))
        assert await world.prompts() == []

    @both_paths
    async def test_sender_who_left_the_workspace_is_dropped(self, world: InboundWorld, fused: bool) -> None:
        bot = await world.add_bot()
        user = await world.bind(bot, "ou_ann")
        async with open_desk(world.store, fused=fused) as desk:
            await desk.receive(direct("om_0"))
            await world.remove_member(bot, user)
            await desk.receive(direct("om_1"))
        assert desk.outcomes[-1] == _dropped(DropReason.NON_WORKSPACE_MEMBER)
        assert await world.drops() == [(bot.installation_id, "om_1", "non_workspace_member")]
        assert len(await world.messages()) == 1

    # claims

    @both_paths
    async def test_processed_message_is_settled_again_as_a_duplicate(self, world: InboundWorld, fused: bool) -> None:
        async with open_desk(world.store, fused=fused) as desk:
            bot = await _warm(world, desk)
            for _ in range(2):
                assert await desk.receive(direct("om_1")) is Verdict.SETTLED
        assert desk.outcomes[1:] == [INGESTED, _dropped(DropReason.DUPLICATE)]
        assert await world.drops() == [(bot.installation_id, "om_1", "duplicate")]
        assert len(await world.messages()) == 2

    @both_paths
    async def test_message_in_flight_elsewhere_is_asked_for_again_without_a_trace(
        self, world: InboundWorld, fused: bool
    ) -> None:
        async with open_desk(world.store, fused=fused) as desk:
            bot = await _warm(world, desk)
            assert await world.store.claim(_claim(bot)) is ClaimAnswer.TAKEN
            await world.age_claims(50)
            assert await desk.receive(direct("om_1")) is Verdict.REDELIVER
        assert desk.outcomes[-1] == _dropped(DropReason.DUPLICATE)
        assert len(await world.messages()) == 1
        assert await world.drops() == []

    @both_paths
    async def test_claim_left_in_flight_for_a_minute_is_retaken_with_a_new_token(
        self, world: InboundWorld, fused: bool
    ) -> None:
        async with open_desk(world.store, fused=fused) as desk:
            bot = await _warm(world, desk)
            abandoned = _claim(bot)
            await world.store.claim(abandoned)
            await world.age_claims(61)
            assert await desk.receive(direct("om_1")) is Verdict.SETTLED
        assert desk.outcomes[-1] == INGESTED
        assert (await world.claims())[(bot.installation_id, "om_1")].token != abandoned.token
        assert not await world.store.release(abandoned)

    async def test_slow_worker_whose_claim_was_retaken_writes_nothing(self, world: InboundWorld) -> None:
        async with open_desk(world.store, fused=False) as desk:
            bot = await _warm(world, desk)
        (session,) = await world.sessions()
        slow, quick = _claim(bot), _claim(bot)
        assert await world.store.claim(slow) is ClaimAnswer.TAKEN
        await world.age_claims(61)
        assert await world.store.claim(quick) is ClaimAnswer.TAKEN
        author = (await world.messages())[0].author_id
        assert author is not None
        before = await world.sessions(), await world.tasks()
        late = UserMessage(slow.token, session.id, author, "late", "om_1", "", None)
        assert await world.store.append(late, slow, {}) is None
        assert (await world.sessions(), await world.tasks()) == before
        assert not await world.store.release(slow)
        assert not await world.store.record_drop(_drop(bot), slow)
        assert await world.store.append(
            UserMessage(quick.token, session.id, author, "on time", "om_1", "", None), quick, {}
        )
        assert [message.content for message in await world.messages()] == ["first", "on time"]
        assert await world.drops() == []

    async def test_released_claim_is_retaken_at_once(self, world: InboundWorld) -> None:
        bot = await world.add_bot()
        first, second = _claim(bot), _claim(bot)
        await world.store.claim(first)
        assert await world.store.claim(second) is ClaimAnswer.HELD
        assert await world.store.release(first)
        assert await world.store.claim(second) is ClaimAnswer.TAKEN
        assert not await world.store.release(first)

    async def test_processed_claim_is_final(self, world: InboundWorld) -> None:
        bot = await world.add_bot()
        claim = _claim(bot)
        await world.store.claim(claim)
        assert await world.store.record_drop(_drop(bot), claim)
        await world.age_claims(3600)
        assert not await world.store.release(claim)
        assert not await world.store.record_drop(_drop(bot), claim)
        assert await world.store.claim(_claim(bot)) is ClaimAnswer.PROCESSED
        assert await world.store.is_processed(claim)
        assert len(await world.drops()) == 1

    # the shared statement

    async def test_ingest_takes_the_first_of_two_equal_messages_in_one_batch(self, world: InboundWorld) -> None:
        async with open_desk(world.store, fused=False) as desk:
            await _warm(world, desk)
        first, second = _plain("om_1", "one"), _plain("om_1", "two")
        assert await world.store.ingest([first, second]) == {first.token: Queueing.QUEUED}
        assert [message.content for message in await world.messages()] == ["first", "one"]

    async def test_ingest_leaves_no_trace_of_what_it_does_not_take(self, world: InboundWorld) -> None:
        async with open_desk(world.store, fused=False) as desk:
            bot = await _warm(world, desk)
        await world.store.claim(_claim(bot, "om_held"))
        before = await world.claims()
        refused = [
            _plain("om_held"),
            _plain("om_0"),
            _plain("om_1", sender="ou_stranger"),
            _plain("om_2", chat="oc_new"),
            PlainMessage(uuid4(), "feishu", "cli_unknown", "om_3", "oc_ou_ann", "ou_ann", "", "x", None),
            PlainMessage(uuid4(), "other", "cli_a", "om_4", "oc_ou_ann", "ou_ann", "", "x", None),
        ]
        assert await world.store.ingest(refused) == {}
        assert await world.claims() == before
        assert len(await world.messages()) == 1

    async def test_ingest_leaves_a_silent_runtime_to_the_steps_until_its_conversation_was_told(
        self, world: InboundWorld
    ) -> None:
        async with open_desk(world.store, fused=False) as desk:
            bot = await _warm(world, desk)
            await world.hear_runtime(bot, heard=False)
            early, late = _plain("om_1", "one"), _plain("om_3", "three")
            assert await world.store.ingest([early]) == {}
            await desk.receive(direct("om_2", "two"))
            assert list(await world.store.ingest([late])) == [late.token]
        assert [message.content for message in await world.messages()] == ["first", "two", "three"]
        assert len(await world.notices()) == 1

    async def test_ingest_keeps_the_order_given_and_queues_one_task_per_session(self, world: InboundWorld) -> None:
        async with open_desk(world.store, fused=False) as desk:
            bot = await _warm(world, desk)
            await world.bind(bot, "ou_bob")
            await desk.receive(direct("om_b", "bob", sender="ou_bob"))
        await world.start_tasks()
        batch = [
            _plain(f"om_{number + 10}", str(number), sender=sender, chat=f"oc_{sender}")
            for number, sender in enumerate(["ou_ann", "ou_bob"] * 20)
        ]
        assert len(await world.store.ingest(batch)) == 40
        by_session: dict[object, list[int]] = {}
        for message in (await world.messages())[2:]:
            by_session.setdefault(message.session_id, []).append(int(message.content))
        assert sorted(map(tuple, by_session.values())) == [tuple(range(0, 40, 2)), tuple(range(1, 40, 2))]
        assert Counter(task.status for task in await world.tasks()) == {"running": 2, "queued": 2}
        assert {session.last_message_id for session in await world.sessions()} == {"om_48", "om_49"}

    @pytest.mark.parametrize("text", ["bad \ud800 text", "bad \0 text"])
    @both_paths
    async def test_poison_text_fails_alone_and_its_claim_is_given_back(
        self, world: InboundWorld, fused: bool, text: str
    ) -> None:
        failures: list[str] = []

        async def deliver(number: int) -> None:
            try:
                await desk.receive(direct(f"om_{number + 1}", text if number == 5 else "good"))
            except RemoteProtocolError as error:
                failures.append(str(error))

        async with open_desk(world.store, fused=fused) as desk:
            bot = await _warm(world, desk)
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(deliver, number)
        assert len(failures) == 1
        assert "bad" not in failures[0]
        assert [message.content for message in await world.messages()] == ["first", *["good"] * 11]
        assert (bot.installation_id, "om_6") not in await world.claims()

    @both_paths
    async def test_200_deliveries_of_50_messages_make_exactly_50_rows(self, world: InboundWorld, fused: bool) -> None:
        async with open_desk(world.store, fused=fused) as desk:
            bot = await world.add_bot()
            for person in range(5):
                await world.bind(bot, f"ou_{person}")
            verdicts: list[Verdict] = []

            async def deliver(number: int) -> None:
                verdicts.append(await desk.receive(direct(f"om_{number}", str(number), sender=f"ou_{number % 5}")))

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    for number in range(50):
                        nursery.start_soon(deliver, number)
        assert sorted(int(message.content) for message in await world.messages()) == list(range(50))
        assert len(await world.sessions()) == len(await world.tasks()) == 5
        assert len(await world.claims()) == 50
        assert desk.outcomes.count(INGESTED) == 50
        assert len(verdicts) == 200
        assert verdicts.count(Verdict.SETTLED) >= 50


def _drop(bot: Bot, message_id: str = "om_1") -> Drop:
    return Drop(bot.installation_id, "feishu", "oc_1", "", "", message_id, DropReason.NOT_ADDRESSED_IN_GROUP)
