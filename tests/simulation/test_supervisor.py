"""Supervisors of several daemons against one table, under a clock that jumps.

Every test also fails when a bot ever had two live links, when a link outlived the lease it stood on by the database's
clock, or when two outbox senders of one bot ran at once.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from uuid import UUID

import pytest
import structlog.testing
import trio

from gateway.channel.channel import DEGRADED_SECONDS, ConnectionState, LinkLost, LinkRefused
from gateway.supervisor.installation import DRAIN_SECONDS
from gateway.supervisor.lease import RECORD_EVERY_SECONDS
from gateway.supervisor.ports import ActiveInstallation
from support.supervisor_cluster import TOY, UNREADABLE, SupervisorCluster, simulate

seeded = pytest.mark.parametrize("seed", range(5))
REFUSAL = LinkRefused(1000040345, "app secret wrong")


def state_of(cluster: SupervisorCluster, bot: UUID) -> str:
    return cluster.table.connections[bot].state


async def owned(cluster: SupervisorCluster) -> UUID:
    """A bot with its first daemon's link on it, for a random while."""
    bot = cluster.add_bot()
    daemon = await cluster.start()
    await cluster.platform.until_live(bot, on=daemon.name)
    await trio.sleep(cluster.rng.uniform(1, 60))
    return bot


# who holds a bot


@seeded
def test_supervisor_with_many_bots_links_each_of_them_once(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bots = [cluster.add_bot() for _ in range(20)]
        for _ in range(3):
            await cluster.start()
        for bot in bots:
            await cluster.platform.until_live(bot)
        await trio.sleep(120)
        assert len(cluster.platform.links) == len(bots)

    simulate(seed, scenario)


@seeded
def test_supervisor_whose_owner_crashes_is_replaced_within_ttl_and_a_second(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        other = await cluster.start()
        await trio.sleep(cluster.rng.uniform(0, 20))
        crashed_at = trio.current_time()
        cluster.daemons[0].crash()
        link = await cluster.platform.until_live(bot, on=other.name)
        assert link.opened_at - crashed_at <= cluster.settings.ttl_seconds + 1
        [seconds] = other.recorder.values("channel_lease_takeover_latency_seconds")
        assert 0 <= seconds <= link.opened_at - crashed_at

    simulate(seed, scenario)


@seeded
def test_supervisor_that_is_stopped_hands_over_within_half_a_second(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        cluster.platform.settle_seconds = (0.0, 0.2)
        bot = await owned(cluster)
        other = await cluster.start()
        await trio.sleep(cluster.rng.uniform(0, 20))
        stopped_at = trio.current_time()
        cluster.daemons[0].stop.set()
        link = await cluster.platform.until_live(bot, on=other.name)
        assert link.opened_at - stopped_at <= 0.5
        await cluster.daemons[0].ended.wait()

    simulate(seed, scenario)


@seeded
def test_supervisor_cut_from_the_database_closes_its_link_before_its_lease_can_expire(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        cluster.platform.settle_seconds = (1.0, 1.0)  # the fence must not wait for what the channel still has to say
        bot = await owned(cluster)
        other = await cluster.start()
        await trio.sleep(cluster.rng.uniform(0, 20))
        old = cluster.platform.sole(bot)
        assert old is not None
        cut_at = trio.current_time()
        cluster.daemons[0].wire.cut = True
        link = await cluster.platform.until_live(bot, on=other.name)
        assert link.opened_at - cut_at <= cluster.settings.ttl_seconds + 1
        assert old.closed_at is not None
        assert old.closed_at <= link.opened_at - cluster.settings.margin_seconds + 0.1
        cluster.daemons[0].wire.cut = False
        await trio.sleep(60)
        assert cluster.platform.sole(bot) is link

    simulate(seed, scenario)


def test_supervisor_alone_and_cut_from_the_database_comes_back_when_it_heals() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        wire = cluster.daemons[0].wire
        wire.cut = True
        await trio.sleep(cluster.settings.trust_seconds + 0.01)
        assert cluster.platform.sole(bot) is None
        await trio.sleep(100)
        wire.cut = False
        healed_at = trio.current_time()
        link = await cluster.platform.until_live(bot)
        assert link.opened_at - healed_at <= 10

    simulate(0, scenario)


def test_supervisor_whose_lease_is_taken_from_under_it_closes_at_the_next_renewal() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        cluster.platform.witness = lambda _event, _link: ""  # the rule is broken from outside here
        link = cluster.platform.sole(bot)
        cluster.row(bot).token = None
        cleared_at = trio.current_time()
        await cluster.platform.until(lambda: link is not None and link.closed_at is not None)
        assert trio.current_time() - cleared_at <= cluster.settings.renew_seconds * 1.1 + 0.1
        await cluster.platform.until_live(bot)

    simulate(0, scenario)


def test_supervisor_standing_by_asks_for_no_lease_while_the_holder_renews() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        await owned(cluster)
        other = await cluster.start()
        await trio.sleep(1)
        asked = other.store.calls.count("acquire")
        await trio.sleep(300)
        assert other.store.calls.count("acquire") == asked == 1

    simulate(0, scenario)


def test_supervisor_with_many_leases_renews_them_in_one_statement_per_tick() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        for _ in range(50):
            cluster.add_bot()
        daemon = await cluster.start()
        await trio.sleep(10)
        before = daemon.store.calls.count("renew")
        await trio.sleep(100)
        assert 20 <= daemon.store.calls.count("renew") - before <= 30

    simulate(0, scenario)


def test_supervisor_sees_a_new_bot_at_once_when_it_is_announced() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        await cluster.start()
        await trio.sleep(1)
        bot, added_at = cluster.add_bot(), trio.current_time()
        link = await cluster.platform.until_live(bot)
        assert link.opened_at - added_at <= 0.5

    simulate(0, scenario)


def test_supervisor_skips_types_that_nobody_registered() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        cluster.add_bot(channel_type="carrier-pigeon")
        await cluster.start()
        with structlog.testing.capture_logs() as logs:
            await trio.sleep(30)
        assert cluster.platform.attempts == []
        assert logs == []

    simulate(0, scenario)


# credentials


@seeded
def test_rotation_links_with_the_new_secret_and_keeps_the_successor_leased(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        cluster.platform.settle_seconds = (0.0, 0.5)
        bot = await owned(cluster)
        await cluster.start()
        old, old_epoch = cluster.platform.sole(bot), cluster.row(bot).epoch
        rotated_at = trio.current_time()
        cluster.table.configure(bot, sealed="y:s2")
        link = await cluster.platform.until_live(bot, since=rotated_at)
        assert (link.secret, cluster.row(bot).epoch > old_epoch) == ("s2", True)
        assert link.opened_at - rotated_at <= 2
        assert old is not None
        assert old.closed_at is not None
        await trio.sleep(60)
        assert cluster.platform.sole(bot) is link

    simulate(seed, scenario)


@seeded
def test_rotations_in_a_row_end_with_the_last_secret(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        cluster.platform.settle_seconds = (0.0, 0.9)
        bot = await owned(cluster)
        for number in range(2, 8):
            cluster.table.configure(bot, sealed=f"y:s{number}")
            await trio.sleep(cluster.rng.uniform(0, 1.5))
        await trio.sleep(20)
        link = cluster.platform.sole(bot)
        assert link is not None
        assert link.secret == "s7"

    simulate(seed, scenario)


def test_rotation_asks_with_a_new_token_and_only_after_the_old_link_has_ended() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        cluster.platform.settle_seconds = (0.9, 0.9)
        bot = await owned(cluster)
        old, token = cluster.platform.sole(bot), cluster.row(bot).token
        store = cluster.daemons[0].store
        cluster.table.configure(bot, sealed="y:s2")
        await cluster.platform.until(lambda: old is not None and old.closed_at is not None)
        assert store.calls.count("acquire") == 1
        await cluster.platform.until_live(bot)
        assert store.calls.count("acquire") == 2
        assert [token, cluster.row(bot).token] == ["node0-g1", "node0-g2"]

    simulate(0, scenario)


@seeded
def test_rotation_whose_release_arrives_late_keeps_the_successor_leased(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        wire, rotated_at = cluster.daemons[0].wire, trio.current_time()
        wire.late = frozenset({"release"})
        cluster.table.configure(bot, sealed="y:s2")
        link = await cluster.platform.until_live(bot, since=rotated_at)
        await trio.sleep(60)
        assert cluster.platform.sole(bot) is link
        assert link.secret == "s2"

    simulate(seed, scenario)


def test_rotation_of_a_channel_that_will_not_end_waits_for_its_lease() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        cluster.platform.settle_seconds, cluster.platform.shield_seconds = (600, 600), 600
        old, rotated_at = cluster.platform.sole(bot), trio.current_time()
        cluster.table.configure(bot, sealed="y:s2")
        link = await cluster.platform.until_live(bot, since=rotated_at)
        assert old is not None
        assert old.closed_at == pytest.approx(rotated_at + DRAIN_SECONDS, abs=1)
        assert link.opened_at >= old.closed_at + cluster.settings.margin_seconds - 0.1
        assert link.opened_at - rotated_at <= 30

    simulate(0, scenario)


def test_resealing_and_backfills_close_no_link() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        link = cluster.platform.sole(bot)
        cluster.table.configure(bot, sealed="another nonce:s1")
        await trio.sleep(10)
        cluster.table.configure(bot, bot_union_id="on_1", tenant_key="t1", allow_bots=True)
        await trio.sleep(10)
        assert cluster.platform.sole(bot) is link
        assert len(cluster.platform.links) == 1

    simulate(0, scenario)


@pytest.mark.parametrize("change", ["app_id", "bot_open_id", "region", "event_mode"])
def test_another_identity_makes_another_link(change: str) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        cluster.table.configure(bot, **{change: "another"})
        await trio.sleep(5)
        assert len(cluster.platform.links) == 2

    simulate(0, scenario)


def test_backfilled_config_reaches_the_next_link() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        seen = []
        cluster.platform.judge = lambda _bot, config: seen.append(config.get("bot_union_id"))  # type: ignore[func-returns-value]
        bot = await owned(cluster)
        cluster.table.configure(bot, bot_union_id="on_1")
        await trio.sleep(5)
        link = cluster.platform.sole(bot)
        assert link is not None
        link.drop(LinkLost("reset"))
        await trio.sleep(5)
        assert seen == [None, "on_1"]

    simulate(0, scenario)


@seeded
def test_revoked_bot_is_drained_and_shown_as_revoked_and_comes_back_when_active_again(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        await cluster.start()
        link = cluster.platform.sole(bot)
        cluster.table.activate(bot, False)
        await cluster.platform.until(lambda: link is not None and link.closed_at is not None)
        await trio.sleep(30)
        assert state_of(cluster, bot) == "revoked"
        assert len(cluster.platform.links) == 1
        cluster.table.activate(bot, True)
        await cluster.platform.until_live(bot)

    simulate(seed, scenario)


def test_bot_revoked_while_nobody_holds_it_is_shown_as_revoked() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        cluster.platform.judge = lambda _bot, _config: REFUSAL
        bot = cluster.add_bot()
        await cluster.start()
        await trio.sleep(20)
        cluster.table.activate(bot, False)
        await trio.sleep(5)
        assert state_of(cluster, bot) == "revoked"

    simulate(0, scenario)


def test_unreadable_secret_is_shown_and_served_once_the_row_changes() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = cluster.add_bot()
        cluster.row(bot).installation.config["sealed"] = UNREADABLE
        daemon = await cluster.start()
        await trio.sleep(20)
        assert cluster.platform.attempts == []
        assert state_of(cluster, bot) == "unreadable_secret"
        assert daemon.fleet is not None
        assert daemon.fleet.connections() == {(TOY, ConnectionState.UNREADABLE_SECRET): 1}
        assert daemon.fleet.states() == {"unreadable_secret": 1}
        assert daemon.store.calls.count("mark") == 1
        cluster.table.configure(bot, sealed="x:s1")
        await cluster.platform.until_live(bot)
        await trio.sleep(3)
        assert state_of(cluster, bot) == "live"

    simulate(0, scenario)


def test_secret_that_became_unreadable_drains_the_link() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        cluster.table.configure(bot, sealed=UNREADABLE)
        await trio.sleep(10)
        assert cluster.platform.sole(bot) is None
        assert state_of(cluster, bot) == "unreadable_secret"

    simulate(0, scenario)


def test_standby_without_the_key_never_overwrites_the_holders_state() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        await trio.sleep(10)
        holder = cluster.table.connections[bot]
        assert cluster.table.mark(bot, ConnectionState.UNREADABLE_SECRET, "no key") is False
        assert cluster.table.mark(bot, ConnectionState.STANDBY, "") is False
        assert cluster.table.connections[bot] == holder
        assert holder.state == "live"

    simulate(0, scenario)


# links that fail


def test_refused_bot_is_retried_from_one_minute_doubling_to_fifteen() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        cluster.platform.judge = lambda _bot, _config: REFUSAL
        bot = cluster.add_bot()
        await cluster.start()
        await trio.sleep(3600)
        times = [at for at, _ in cluster.platform.attempts]
        gaps = [round(later - earlier) for earlier, later in pairwise(times)]
        assert gaps == [60, 120, 240, 480, 900, 900]
        shown = cluster.table.connections[bot]
        assert (shown.state, shown.code, shown.detail) == ("refused", 1000040345, "app secret wrong")
        assert cluster.row(bot).token is None

    simulate(0, scenario)


def test_refused_bot_is_tried_at_once_with_other_credentials() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        cluster.platform.judge = lambda _bot, config: REFUSAL if config["secret"] == "s1" else None
        bot = cluster.add_bot()
        await cluster.start()
        await trio.sleep(300)
        changed_at = trio.current_time()
        cluster.table.configure(bot, sealed="x:s2")
        link = await cluster.platform.until_live(bot)
        assert link.opened_at - changed_at <= 0.5

    simulate(0, scenario)


@seeded
def test_lost_link_is_retried_with_backoff_and_starts_over_after_a_healthy_minute(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        for losses, healthy in [(0, 61), (0, 61), (1, 1), (2, 1), (3, 1)]:
            await trio.sleep(healthy)
            link = cluster.platform.sole(bot)
            assert link is not None
            lost_at = trio.current_time()
            link.drop(LinkLost("reset"))
            await cluster.platform.until_live(bot, since=lost_at)
            assert 2**losses <= trio.current_time() - lost_at <= 3 * 2**losses + 0.5

    simulate(seed, scenario)


def test_deaf_link_is_shown_as_deaf_until_it_is_tried_again() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        link = cluster.platform.sole(bot)
        assert link is not None
        link.drop(LinkLost("no frame for 100 s", deaf=True))
        await trio.sleep(0.5)
        shown = cluster.table.connections[bot]
        assert (shown.state, shown.detail) == ("deaf", "no frame for 100 s")

    simulate(0, scenario)


def test_unknown_exception_in_one_bot_is_logged_and_leaves_the_others_alone() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        good = cluster.add_bot()
        poison = cluster.add_bot()

        def judge(bot: UUID, _config: object) -> Exception | None:
            return ZeroDivisionError("poison") if bot == poison else None

        cluster.platform.judge = judge
        with structlog.testing.capture_logs() as logs:
            daemon = await cluster.start()
            await trio.sleep(300)
        assert len([link for link in cluster.platform.links if link.installation_id == good]) == 1
        failures = [entry for entry in logs if entry["event"] == "installation_failed"]
        assert 3 <= len(failures) <= 12
        assert {entry["installation_id"] for entry in failures} == {str(poison)}
        assert all(entry["exc_info"] for entry in failures)
        assert daemon.recorder.seen("unexpected_errors") == [("installation",)] * len(failures)

    simulate(0, scenario)


# an unreliable database


@seeded
def test_flaky_database_costs_no_link_while_some_renewals_get_through(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        for _ in range(40):
            cluster.daemons[0].wire.flaky = 1.0
            await trio.sleep(cluster.rng.uniform(0, 4))
            cluster.daemons[0].wire.flaky = 0.0
            await trio.sleep(8)
        assert len([link for link in cluster.platform.links if link.installation_id == bot]) == 1

    simulate(seed, scenario)


def test_row_locked_by_somebody_costs_the_other_bots_nothing() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        locked, other = cluster.add_bot(), cluster.add_bot()
        await cluster.start()
        first, second = await cluster.platform.until_live(locked), await cluster.platform.until_live(other)
        cluster.row(locked).locked = True
        await trio.sleep(cluster.settings.ttl_seconds * 2)
        assert first.closed_at is not None
        assert second.closed_at is None

    simulate(0, scenario)


@seeded
def test_lost_answer_to_a_lease_request_neither_links_twice_nor_waits_for_the_expiry(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = cluster.add_bot()
        daemon = await cluster.start()
        daemon.wire.flaky = 0.7
        await trio.sleep(cluster.rng.uniform(0, 10))
        daemon.wire.flaky = 0.0
        steady_at = trio.current_time()
        link = await cluster.platform.until_live(bot)
        assert link.opened_at - steady_at <= cluster.settings.ttl_seconds

    simulate(seed, scenario)


def test_stop_while_a_lease_request_is_unanswered_releases_what_it_may_have_taken() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        daemon, other = await cluster.start(), await cluster.start()
        other.wire.cut = True
        daemon.wire.mute = frozenset({"acquire"})
        bot = cluster.add_bot()
        await trio.sleep(20)
        assert (cluster.row(bot).token or "").startswith(daemon.name)
        other.wire.cut = False
        await trio.sleep(10)
        stopped_at = trio.current_time()
        daemon.stop.set()
        link = await cluster.platform.until_live(bot, on=other.name)
        assert link.opened_at - stopped_at <= cluster.settings.attempt_seconds + 1
        assert cluster.platform.links == [link]

    simulate(0, scenario)


# shutdown


@seeded
def test_stop_with_many_bots_drains_them_in_parallel(seed: int) -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        cluster.platform.settle_seconds = (0.0, 0.9)
        bots = [cluster.add_bot() for _ in range(100)]
        daemon = await cluster.start()
        for bot in bots:
            await cluster.platform.until_live(bot)
        await trio.sleep(20)
        stopped_at = trio.current_time()
        daemon.stop.set()
        await daemon.ended.wait()
        assert trio.current_time() - stopped_at <= 1.2
        assert all(cluster.row(bot).token is None for bot in bots)
        assert {state_of(cluster, bot) for bot in bots} == {"standby"}

    simulate(seed, scenario)


def test_stop_with_a_channel_that_will_not_end_closes_its_link_and_lets_others_take_over() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        other = await cluster.start()
        await trio.sleep(10)
        cluster.platform.settle_seconds, cluster.platform.shield_seconds = (600, 600), 600
        old, stopped_at = cluster.platform.sole(bot), trio.current_time()
        cluster.daemons[0].stop.set()
        link = await cluster.platform.until_live(bot, on=other.name)
        assert old is not None
        assert old.closed_at == pytest.approx(stopped_at + DRAIN_SECONDS)
        assert link.opened_at - stopped_at <= DRAIN_SECONDS + cluster.settings.ttl_seconds + 1

    simulate(0, scenario)


def test_stop_with_an_unreachable_database_ends_within_its_bound() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        await owned(cluster)
        daemon = cluster.daemons[0]
        daemon.wire.cut = True
        stopped_at = trio.current_time()
        daemon.stop.set()
        await daemon.ended.wait()
        assert trio.current_time() - stopped_at <= 15

    simulate(0, scenario)


def test_stop_right_after_the_start_ends_at_once() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        for _ in range(5):
            cluster.add_bot()
        daemon = await cluster.start()
        daemon.stop.set()
        await daemon.ended.wait()
        assert all(not cluster.platform.live[bot] for bot in cluster.table.rows)
        assert all(row.token is None for row in cluster.table.rows.values())

    simulate(0, scenario)


# what is told


def test_state_that_a_late_statement_overwrote_is_stored_again() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        daemon = await cluster.start()
        daemon.wire.mute = frozenset({"record"})
        bot = cluster.add_bot()
        await cluster.platform.until_live(bot)
        await trio.sleep(1)
        daemon.wire.mute = frozenset()
        await trio.sleep(RECORD_EVERY_SECONDS + 1)  # by now a statement without an answer was followed by another
        stored = cluster.table.connections[bot]
        assert stored.state == "live"
        cluster.table.connections[bot] = replace(stored, state="connecting")
        await trio.sleep(RECORD_EVERY_SECONDS + 2)
        assert state_of(cluster, bot) == "live"

    simulate(0, scenario)


def test_readiness_names_the_problem_until_the_first_sweep_and_when_sweeps_fail() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        daemon = await cluster.start()
        fleet = daemon.fleet
        assert fleet is not None
        assert await fleet.problem() == "the installations have not been read yet"
        await trio.sleep(1)
        assert await fleet.problem() is None
        daemon.wire.cut = True
        await trio.sleep(60)
        assert "last read" in str(await fleet.problem())

    simulate(0, scenario)


def test_logs_never_contain_a_lease_token() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        with structlog.testing.capture_logs() as logs:
            bot = await owned(cluster)
            await cluster.start()
            link = cluster.platform.sole(bot)
            assert link is not None
            link.drop(LinkLost("reset"))
            await trio.sleep(20)
            cluster.table.configure(bot, sealed="x:s2")
            await trio.sleep(20)
            for daemon in cluster.daemons:
                daemon.wire.cut = True
            await trio.sleep(60)
            for daemon in cluster.daemons:
                daemon.wire.cut = False
                daemon.stop.set()
            await trio.sleep(30)
        events = {entry["event"] for entry in logs}
        assert {"link_established", "link_lost", "link_drained", "lease_lost", "lease_renewal_failed"} <= events
        assert "-g" not in str(logs)

    simulate(0, scenario)


@seeded
def test_supervisor_that_meets_a_row_it_cannot_read_keeps_the_bots_it_has(seed: int) -> None:
    """A config nested a thousand deep is valid in the database, and more than Python's decoder takes."""

    async def scenario(cluster: SupervisorCluster) -> None:
        bot = await owned(cluster)
        [daemon] = cluster.daemons
        assert daemon.fleet is not None
        sound, daemon.store.list_active = daemon.store.list_active, _too_deep  # type: ignore[method-assign]
        [link] = cluster.platform.links
        await trio.sleep(100)
        assert cluster.platform.links == [link]
        assert "were last read" in (await daemon.fleet.problem() or "")
        assert ("sweep",) in daemon.recorder.seen("unexpected_errors")
        daemon.store.list_active = sound  # type: ignore[method-assign]
        late = cluster.add_bot()
        await cluster.platform.until_live(late)
        assert (await cluster.platform.until_live(bot)) is link
        assert await daemon.fleet.problem() is None

    simulate(seed, scenario)


async def _too_deep(_channel_types: object) -> list[ActiveInstallation]:
    raise RecursionError("maximum recursion depth exceeded while decoding a JSON array")


def test_link_that_asked_for_an_event_again_counts_as_degraded_for_a_minute() -> None:
    async def scenario(cluster: SupervisorCluster) -> None:
        bot = cluster.add_bot()
        daemon = await cluster.start()
        await cluster.platform.until_live(bot)
        assert daemon.fleet is not None
        assert daemon.fleet.degraded() == {}
        daemon.fleet._running[bot].health.asked_again_at = trio.current_time()
        assert daemon.fleet.degraded() == {TOY: 1}
        assert daemon.fleet.connections() == {(TOY, ConnectionState.LIVE): 1}
        assert daemon.fleet.states() == {"live": 1, "degraded": 1}
        await trio.sleep(DEGRADED_SECONDS)
        assert daemon.fleet.degraded() == {}
        assert daemon.fleet.states() == {"live": 1}

    simulate(0, scenario)
