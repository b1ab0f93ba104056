"""Many chats at once: below every limit of the platform, and none waits for what another has to hear."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from gateway.simulator.platform import SimChat
from support.lark_storm import LarkStorm
from support.outbox_cluster import OutboxCluster, simulate

CHATS = 50
APP_CALLS_PER_SECOND = 50
CHAT_CALLS_PER_SECOND = 5
ROUND_TRIP_MAX_SECONDS = 0.6
"""See LarkStorm: up to 0.3 s each way, which is also how far apart calls may arrive that left together."""


class Crowd:
    """What each chat is to hear, by chat; and when it heard the last of it."""

    def __init__(self, cluster: OutboxCluster[LarkStorm]) -> None:
        cluster.platform.sim.limits.enabled = True
        self.cluster = cluster
        cluster.watched = False  # there are too many rows to look at all of them for each
        sim, app = cluster.platform.sim, cluster.platform.app
        self.chats = [sim.create_group(f"chat {number}", [app], cluster.platform.people) for number in range(CHATS)]

    def write(self, chat: SimChat, count: int) -> None:
        for number in range(count):
            self.cluster.store.add(f"{number}", chat.chat_id)

    async def serve(self) -> None:
        self.cluster.take_lease()
        while self.cluster.open_rows:
            await trio.sleep(1)

    def heard_at(self, chat: SimChat) -> float:
        """Seconds after the beginning until the chat had everything, in order."""
        sent = self.cluster.platform.sim.sent(chat)
        wanted = [stored.row.content for stored in self.cluster.rows if stored.row.recipient_id == chat.chat_id]
        assert [message.text for message in sent] == wanted
        return sent[-1].create_time / 1000 - self.cluster.platform.started_at

    def refusals(self) -> list[int]:
        return [call.code for call in self.cluster.platform.sim.calls if call.code]


def play(story: Callable[[Crowd], Awaitable[None]], seed: int = 1) -> Crowd:
    crowds: list[Crowd] = []

    async def tell(cluster: OutboxCluster[LarkStorm]) -> None:
        crowds.append(Crowd(cluster))
        await story(crowds[0])

    simulate(seed, tell, LarkStorm)
    return crowds[0]


async def bursts(crowd: Crowd) -> None:
    for chat in crowd.chats:
        crowd.write(chat, 21)
    await crowd.serve()


def test_fifty_chats_with_bursts_meet_no_limit_and_are_served_at_full_speed() -> None:
    """1,050 messages: more than a second and more than a minute of the app may take."""
    crowd = play(bursts)
    assert crowd.refusals() == []
    finished = [crowd.heard_at(chat) for chat in crowd.chats]
    # The thousand of the first minute, then the rest as soon as the window lets them; both a little late.
    assert max(finished) < 60 + 2 * ROUND_TRIP_MAX_SECONDS + 50 / APP_CALLS_PER_SECOND + 10


async def short_answers(crowd: Crowd) -> None:
    for chat in crowd.chats[1:]:
        crowd.write(chat, 2)
    await crowd.serve()


async def short_answers_behind_a_backlog(crowd: Crowd) -> None:
    crowd.write(crowd.chats[0], 200)
    await short_answers(crowd)


def test_chat_with_a_backlog_does_not_delay_the_others() -> None:
    alone, beside = play(short_answers), play(short_answers_behind_a_backlog)
    assert alone.refusals() == beside.refusals() == []
    latest = [max(crowd.heard_at(chat) for chat in crowd.chats[1:]) for crowd in (alone, beside)]
    assert latest[1] < latest[0] + 1
    backlog = beside.heard_at(beside.chats[0])
    assert 200 / CHAT_CALLS_PER_SECOND - 1 <= backlog < 200 / CHAT_CALLS_PER_SECOND * (1 + ROUND_TRIP_MAX_SECONDS)


async def short_answers_behind_many_backlogs(crowd: Crowd) -> None:
    for chat in crowd.chats[:20]:
        crowd.write(chat, 40)
    for chat in crowd.chats[20:]:
        crowd.write(chat, 1)
    await crowd.serve()


def test_chats_with_backlogs_that_fill_the_apps_limit_let_the_others_in_between() -> None:
    crowd = play(short_answers_behind_many_backlogs)
    assert crowd.refusals() == []
    waited = max(crowd.heard_at(chat) for chat in crowd.chats[20:])
    # Everybody's first message, as eight at a time can go.
    assert waited < CHATS / 8 * ROUND_TRIP_MAX_SECONDS + 1
