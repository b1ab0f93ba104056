"""Everything goes wrong, in an order that a seed decides; then everything heals, and every bot must be served.

The invariants of the cluster are watched all the while: see test_supervisor.py.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
import trio

from gateway.channel.channel import LinkLost, LinkRefused
from gateway.core.lease import LeaseSettings
from support.supervisor_cluster import SupervisorCluster, SupervisorNode, simulate

SECONDS = 150.0


class Chaos:
    """Breaks and mends the cluster at random moments."""

    def __init__(self, cluster: SupervisorCluster) -> None:
        self.cluster = cluster
        self.rng = cluster.rng
        self.secrets: dict[UUID, int] = {}

    async def run(self) -> None:
        end = trio.current_time() + SECONDS
        misfortunes: list[Callable[[], None]] = [
            self.crash, self.stop, self.cut, self.mend, self.flaky, self.rotate, self.reseal, self.revoke, self.drop,
        ]  # fmt: skip
        while trio.current_time() < end:
            while len(self.alive()) < 2:
                await self.cluster.start()
            await trio.sleep(self.rng.expovariate(1 / 4))
            self.rng.choice(misfortunes)()

    async def heal(self) -> None:
        while len(self.alive()) < 2:
            await self.cluster.start()
        for daemon in self.cluster.daemons:
            if not daemon.scope.cancel_called:
                daemon.wire.cut, daemon.wire.flaky = False, 0.0
        for bot, row in self.cluster.table.rows.items():
            if not row.active:
                self.cluster.table.activate(bot, True)

    def is_served(self, bot: UUID) -> bool:
        link = self.cluster.platform.sole(bot)
        return link is not None and link.secret == f"s{self.secrets.get(bot, 1)}"

    def alive(self) -> list[SupervisorNode]:
        return [each for each in self.cluster.daemons if not each.stop.is_set() and not each.scope.cancel_called]

    def bot(self) -> UUID:
        return self.rng.choice(list(self.cluster.table.rows))

    def crash(self) -> None:
        self.rng.choice(self.alive()).crash()

    def stop(self) -> None:
        self.rng.choice(self.alive()).stop.set()

    def cut(self) -> None:
        self.rng.choice(self.alive()).wire.cut = True

    def mend(self) -> None:
        for daemon in self.alive():
            daemon.wire.cut = False

    def flaky(self) -> None:
        self.rng.choice(self.alive()).wire.flaky = self.rng.choice([0.0, 0.1, 0.5, 1.0])

    def rotate(self) -> None:
        bot = self.bot()
        self.secrets[bot] = self.secrets.get(bot, 1) + 1
        self.cluster.table.configure(bot, sealed=f"x:s{self.secrets[bot]}")

    def reseal(self) -> None:
        bot = self.bot()
        self.cluster.table.configure(bot, sealed=f"{self.rng.random()}:s{self.secrets.get(bot, 1)}")

    def revoke(self) -> None:
        bot = self.bot()
        self.cluster.table.activate(bot, not self.cluster.row(bot).active)

    def drop(self) -> None:
        error = self.rng.choice([LinkLost("reset"), LinkLost("silent", deaf=True), RuntimeError("poison")])
        link = self.cluster.platform.sole(self.bot())
        if link is not None:
            link.drop(error)


async def chaos(cluster: SupervisorCluster) -> None:
    cluster.platform.settle_seconds = (0.0, 1.0)
    cluster.platform.judge = lambda _bot, _config: _moody(cluster)
    bots = [cluster.add_bot() for _ in range(3)]
    storm = Chaos(cluster)
    await storm.run()
    cluster.platform.judge = lambda _bot, _config: None
    await storm.heal()
    with trio.fail_after(1000):  # more than the longest back-off
        await cluster.platform.until(lambda: all(storm.is_served(bot) for bot in bots))
    await trio.sleep(30)  # what was late on the wire arrives
    for bot in bots:
        assert storm.is_served(bot)
        assert cluster.table.connections[bot].state == "live"


def _moody(cluster: SupervisorCluster) -> Exception | None:
    mood = cluster.rng.random()
    if mood < 0.03:
        return LinkRefused(514, "forbidden")
    return LinkLost("no route") if mood < 0.15 else None


@pytest.mark.parametrize("seed", range(40))
def test_chaos_never_makes_two_links_and_ends_with_every_bot_served(seed: int) -> None:
    settings = LeaseSettings() if seed % 2 else LeaseSettings.derived(6)
    cluster = simulate(seed, chaos, settings=settings)
    assert len(cluster.platform.links) > 5


def test_same_seed_is_the_same_run() -> None:
    traces = [simulate(7, chaos).platform.trace for _ in range(2)]
    assert traces[0] == traces[1]
    assert simulate(8, chaos).platform.trace != traces[0]
