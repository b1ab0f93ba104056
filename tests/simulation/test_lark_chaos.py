"""The storms of test_outbox_chaos.py through the Lark adapter: real codes, real statuses, real bodies."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio

from gateway.simulator.simulator import Utterance
from support.lark_storm import CURSED, FATES, LarkStorm
from support.outbox_cluster import OutboxCluster, simulate

SEEDS = int(os.environ.get("OUTBOX_SEEDS", "60"))
"""How many runs; `make soak` asks for more."""
SEEDS_PER_TEST = 10
WORDS = ("ok", "done", "**bold** and more", CURSED, '<at user_id="all"></at> look', "a longer answer\nof two lines")


class Storm:
    """Breaks and mends the way to the platform, while people write, withdraw, and are answered in chats and topics."""

    def __init__(self, cluster: OutboxCluster[LarkStorm]) -> None:
        self.cluster = cluster
        self.rng = cluster.rng
        self.platform = cluster.platform

    async def run(self) -> None:
        platform = self.platform
        platform.unreadable = {chat for chat in platform.chats if self.rng.random() < 0.25}
        self.cluster.kill_chance = self.rng.choice([0.0, 0.02, 0.1])
        misfortunes: list[Callable[[], None]] = [self.gust, self.gust, self.kill, self.hand_over, self.bar]
        steps = self.rng.randrange(4, 10)
        hours_at = self.rng.randrange(2 * steps)
        for step in range(steps):
            if not self.cluster.daemons or self.cluster.daemons[-1].scope.cancel_called:
                self.cluster.take_lease()
            for _ in range(self.rng.randrange(1, 4)):
                self.say()
            self.rng.choice(misfortunes)()
            await trio.sleep(self.rng.expovariate(1 / 4))
            if step == hours_at:
                await self.outage()
            self.cluster.check()

    def say(self) -> None:
        """An answer, in a topic half of the time; what it answers may be withdrawn before it is sent."""
        platform, person = self.platform, self.rng.choice(self.platform.people)
        chat = platform.sim.platform.chats[self.rng.choice(platform.chats)]
        stored = self.cluster.store.add(self.rng.choice(WORDS), chat.chat_id)
        kind = self.rng.choice(["answer", "answer", "error", "notice"])
        stored.row = replace(stored.row, kind=kind)
        if self.rng.random() < 0.5:
            said = platform.sim.say(person, chat, Utterance("please", in_thread=True)).message
            stored.row = replace(stored.row, thread_id=said.thread_id, reply_to_message_id=said.message_id)
            if self.rng.random() < 0.3:
                platform.sim.messages.withdraw(said.message_id)
        self.cluster.ring()

    def gust(self) -> None:
        self.platform.storm = self.rng.choice([0.0, 0.3, 0.6, 0.9, 1.0])

    def kill(self) -> None:
        self.cluster.daemons[-1].kill()

    def hand_over(self) -> None:
        """The former holder hears of it later."""
        former = self.cluster.daemons[-1]
        self.cluster.take_lease()
        former.scope.deadline = trio.current_time() + self.rng.uniform(0, 3)

    def bar(self) -> None:
        """The bot is put out of a chat, where it can neither write nor read, or let in again."""
        chat = self.rng.choice(self.platform.chats)
        self.platform.barred ^= {chat}
        self.platform.unreadable.add(chat)

    async def outage(self) -> None:
        if self.rng.random() < 0.3:
            self.platform.away = True
        else:
            self.kill()
        await trio.sleep(self.rng.choice([3300, 3590, 3700, 5000]))
        self.platform.away = False


async def storm(cluster: OutboxCluster[LarkStorm]) -> None:
    await Storm(cluster).run()


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_chaos_of_lark_leaves_each_answer_seen_once_or_shown_as_not_sent(first: int) -> None:
    for seed in range(first, min(first + SEEDS_PER_TEST, SEEDS)):
        try:
            simulate(seed, storm, LarkStorm)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_chaos_of_lark_meets_every_answer_there_is() -> None:
    fates, statuses = Counter[str](), Counter[str]()
    for seed in range(12):
        cluster = simulate(seed, storm, LarkStorm)
        fates.update(cluster.platform.fates)
        statuses.update(stored.status for stored in cluster.rows)
    assert set(fates) == {*FATES, "fine"}
    assert {"sent", "failed", "unknown"} == set(statuses)
