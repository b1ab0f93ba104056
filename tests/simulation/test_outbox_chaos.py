"""Everything goes wrong with answers, in an order that a seed decides: each is seen once, or shown as not sent.

What must hold is checked at every write, see `OutboxCluster.check`: a row that claims `sent` is seen exactly once, a
`failed` one never, an `unknown` one at most once and only where the chat cannot be read; nothing twice, nothing out of
order, no limit exceeded, and nothing written by a holder whose row was taken over. After the storm everything is
settled.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio

from support.chaotic_platform import FATES
from support.outbox_cluster import Chaotic, OutboxCluster, OutboxNode
from support.outbox_cluster import simulate as simulate_cluster

SEEDS = int(os.environ.get("OUTBOX_SEEDS", "60"))
"""How many runs; `make soak` asks for more."""
SEEDS_PER_TEST = 10
CHATS = ("1", "2", "3", "4")
WORDS = ("ok", "done", "yes", "**bold**", "a longer answer")


class Storm:
    """Breaks and mends the cluster at random moments, while answers are written."""

    def __init__(self, cluster: OutboxCluster[Chaotic]) -> None:
        self.cluster = cluster
        self.rng = cluster.rng
        self.platform = cluster.platform

    async def run(self) -> None:
        self.platform.unreadable = {f"oc_{chat}" for chat in CHATS if self.rng.random() < 0.3}
        self.platform.storm = self.rng.choice([0.0, 0.3, 0.6])
        self.cluster.kill_chance = self.rng.choice([0.0, 0.02, 0.2])
        misfortunes: list[Callable[[], None]] = [
            self.kill, self.hand_over, self.usurp, self.gust, self.flood, self.shake_store, self.bar,
        ]  # fmt: skip
        steps = self.rng.randrange(4, 14)
        hours_at = self.rng.randrange(3 * steps)
        for step in range(steps):
            if self.holder() is None and self.rng.random() < 0.8:
                await trio.sleep(self.rng.choice([0.1, 2, 16]))
                self.cluster.take_lease()
            for _ in range(self.rng.randrange(4)):
                self.say()
            self.rng.choice(misfortunes)()
            await trio.sleep(self.rng.expovariate(1 / 5))
            if step == hours_at:
                await self.outage()
            self.cluster.check()

    def holder(self) -> OutboxNode | None:
        daemon = self.cluster.daemons[-1] if self.cluster.daemons else None
        return None if daemon is None or daemon.scope.cancel_called else daemon

    def say(self) -> None:
        chat = self.rng.choice(CHATS)
        if chat in self.cluster.signs:
            self.cluster.end(chat, self.rng.choice(WORDS))
        elif self.rng.random() < 0.3:
            self.cluster.begin(chat)
        else:
            parts = self.rng.choice([1, 1, 2, 8])
            self.cluster.write(f"oc_{chat}", *(self.rng.choice(WORDS) for _ in range(parts)))

    def kill(self) -> None:
        if (daemon := self.holder()) is not None:
            daemon.kill()

    def hand_over(self) -> None:
        if (daemon := self.holder()) is not None:
            daemon.scope.cancel()

    def usurp(self) -> None:
        """The lease passes on while its former holder is in the middle of something, and hears of it later."""
        if (daemon := self.holder()) is not None:
            self.cluster.take_lease()
            daemon.scope.deadline = trio.current_time() + self.rng.uniform(0, 3)

    def gust(self) -> None:
        self.platform.storm = self.rng.choice([0.0, 0.2, 0.5, 0.9, 1.0])

    def flood(self) -> None:
        self.cluster.write(f"oc_{self.rng.choice(CHATS)}", *map(str, range(12)))

    def shake_store(self) -> None:
        self.cluster.store_storm = self.rng.choice([0.0, 0.0, 0.1, 0.5])
        self.cluster.store_down = self.rng.random() < 0.2

    def bar(self) -> None:
        """The bot is put out of a chat, or let in again."""
        self.platform.barred ^= {f"oc_{self.rng.choice(CHATS)}"}

    async def outage(self) -> None:
        """Longer than the platform remembers what was sent: of it, of the store, or of every daemon."""
        match self.rng.randrange(6):
            case 0:
                self.platform.away = True
            case 1:
                self.cluster.store_down = True
            case _:
                self.kill()
        await trio.sleep(self.rng.choice([3300, 3590, 3700, 5000]))
        self.platform.away = self.cluster.store_down = False


def simulate(seed: int, story: Callable[[OutboxCluster[Chaotic]], Awaitable[None]]) -> OutboxCluster[Chaotic]:
    return simulate_cluster(seed, story, Chaotic)


async def storm(cluster: OutboxCluster[Chaotic]) -> None:
    await Storm(cluster).run()


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_chaos_leaves_each_answer_seen_once_or_shown_as_not_sent(first: int) -> None:
    for seed in range(first, min(first + SEEDS_PER_TEST, SEEDS)):
        try:
            simulate(seed, storm)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_chaos_of_the_seeds_meets_everything_that_can_happen() -> None:
    clusters = [simulate(seed, storm) for seed in range(40)]
    fates, statuses = Counter[str](), Counter[str]()
    for cluster in clusters:
        fates.update(cluster.platform.fates)
        statuses.update(stored.status for stored in cluster.rows)
    assert set(fates) == {*FATES, "fine"}
    assert set(statuses) == {"sent", "failed", "unknown"}
    assert {point for cluster in clusters for point in cluster.killed_at} >= {
        "outbox.marked_sending",
        "outbox.sent_unmarked",
        "outbox.marked_sent",
    }
    assert any(cluster.platform.reads for cluster in clusters)


def test_same_seed_is_the_same_run() -> None:
    assert simulate(7, storm).trace == simulate(7, storm).trace
    assert simulate(8, storm).trace != simulate(7, storm).trace
