"""The outbox on a clock of its own: order, retries, and what a hand-over leaves behind."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import trio

from gateway.channel.errors import PlatformRefused, PlatformThrottled, PlatformUnauthorized, PlatformUnavailable
from gateway.core.replies import WORDS, Composed, Reply
from gateway.errors import StoreConflict, StoreError, StoreUnavailable
from gateway.outbound.ports import OutboxRow
from support.outbox_memory import MemoryOutboxStore, sending
from support.recording import Recording
from support.simulated import simulated
from support.toy.channels import FullToyChannel
from support.toy.platform import READ, ToyPlatform, raising, sleeping


@pytest.fixture
def store() -> MemoryOutboxStore:
    return MemoryOutboxStore()


@pytest.fixture
def platform() -> ToyPlatform:
    return ToyPlatform()


@simulated
async def test_outbox_rows_of_one_chat_leave_in_order(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    rows = [store.add(str(number)) for number in range(5)]
    platform.before["0"] = [sleeping(2)]
    recorder = Recording()
    async with sending(store, platform, recorder=recorder):
        await trio.sleep(10)
    assert platform.texts("oc_1") == ["0", "1", "2", "3", "4"]
    assert [row.status for row in rows] == ["sent"] * 5
    assert recorder.seen("outbound_attempts") == [("answer", "sent")] * 5
    assert rows[0].channel_message_id == "om_0"


@simulated
async def test_outbox_slow_chat_does_not_hold_up_another(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    store.add("slow", "oc_1")
    store.add("quick", "oc_2")
    platform.before["slow"] = [sleeping(2)]
    async with sending(store, platform):
        await trio.sleep(1)
        assert platform.texts("oc_2") == ["quick"]
        assert platform.texts("oc_1") == []
        await trio.sleep(2)
    assert platform.texts("oc_1") == ["slow"]


@simulated
async def test_outbox_failing_row_holds_back_its_own_chat_only(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    store.add("one", "oc_1")
    store.add("two", "oc_1")
    store.add("other", "oc_2")
    platform.before["one"] = [raising(PlatformUnavailable("away")) for _ in range(3)]
    async with sending(store, platform):
        await trio.sleep(0.5)
        assert platform.visible == [("oc_2", "other")]
        await trio.sleep(20)
    assert platform.texts("oc_1") == ["one", "two"]


@simulated
async def test_outbox_sends_at_most_so_many_at_a_time(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    for number in range(20):
        store.add(f"{number}", f"oc_{number}")
        platform.before[f"{number}"] = [sleeping(1)]
    async with sending(store, platform, concurrency=3):
        await trio.sleep(30)
    assert platform.in_flight_max == 3
    assert len(platform.visible) == 20


@simulated
async def test_outbox_new_row_is_sent_when_the_signal_rings(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    async with sending(store, platform) as wake:
        await trio.sleep(100)
        start = trio.current_time()
        store.add("hello")
        wake.set()
        await trio.sleep(0.1)
    assert platform.call_times == [pytest.approx(start, abs=0.1)]


@simulated
async def test_outbox_new_row_is_found_although_nothing_rang(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    async with sending(store, platform):
        await trio.sleep(1)
        store.add("hello")
        await trio.sleep(31)
    assert platform.visible == [("oc_1", "hello")]


@simulated
async def test_outbox_retry_keeps_the_key_and_backs_off(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    row = store.add("hello")
    platform.before["hello"] = [raising(PlatformUnavailable("away")) for _ in range(4)]
    async with sending(store, platform):
        await trio.sleep(60)
    assert {call.idempotency_key for call in platform.calls} == {row.row.uuid}
    pauses = [later - earlier for earlier, later in zip(platform.call_times, platform.call_times[1:], strict=False)]
    assert pauses == [pytest.approx(seconds, abs=0.1) for seconds in (1, 2, 4, 8)]


@simulated
async def test_outbox_lost_answer_is_one_message(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    row = store.add("hello")
    platform.after["hello"] = [sleeping(60), raising(PlatformUnavailable("connection reset"))]
    async with sending(store, platform):
        await trio.sleep(60)
    assert platform.visible == [("oc_1", "hello")]
    assert (row.status, row.row.attempts) == ("sent", 3)


@simulated
async def test_outbox_throttled_row_waits_as_long_as_it_is_told(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    store.add("hello")
    platform.before["hello"] = [raising(PlatformThrottled("slow down", retry_after=17))]
    async with sending(store, platform):
        await trio.sleep(60)
    assert platform.call_times[1] - platform.call_times[0] == pytest.approx(17, abs=0.1)


@simulated
async def test_outbox_refused_row_is_failed_and_the_next_one_goes(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    refused, following = store.add("no"), store.add("yes")
    platform.before["no"] = [raising(PlatformRefused("bot not in chat", code=230002))]
    recorder = Recording()
    async with sending(store, platform, recorder=recorder):
        await trio.sleep(5)
    assert (refused.status, refused.error) == ("failed", "bot not in chat")
    assert following.status == "sent"
    assert len(platform.calls) == 2
    assert recorder.seen("outbound_attempts") == [("answer", "failed"), ("answer", "sent")]
    assert store.told == [(refused.row.id, WORDS["en"][Reply.ANSWER_UNDELIVERED])]


@simulated
@pytest.mark.parametrize(("kind", "tells"), [("answer", True), ("error", True), ("notice", False)])
async def test_outbox_refusal_is_told_of_a_run_and_never_of_what_the_gateway_itself_says(
    store: MemoryOutboxStore, platform: ToyPlatform, kind: str, tells: bool
) -> None:
    row = store.add("no")
    row.row = replace(row.row, kind=kind)
    platform.before["no"] = [raising(PlatformRefused("bot not in chat", code=230002))]
    async with sending(store, platform):
        await trio.sleep(5)
    assert (row.status, len(store.told)) == ("failed", int(tells))


@simulated
async def test_outbox_unauthorized_row_is_tried_slowly_until_it_works(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    row = store.add("hello")
    platform.before["hello"] = [raising(PlatformUnauthorized("bad secret")) for _ in range(8)]
    async with sending(store, platform):
        await trio.sleep(3 * 3600)
    assert row.status == "sent"
    assert platform.call_times[1] - platform.call_times[0] == pytest.approx(60, abs=0.1)
    assert max(b - a for a, b in zip(platform.call_times, platform.call_times[1:], strict=False)) < 901


@simulated
async def test_outbox_unknown_result_is_never_resent_past_the_hour(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    row, following = store.add("hello"), store.add("next")
    platform.after["hello"] = [raising(PlatformUnavailable("away")) for _ in range(10_000)]
    async with sending(store, platform):
        await trio.sleep(2 * 3600)
    assert row.status == "unknown"
    last = max(time for call, time in zip(platform.calls, platform.call_times, strict=True) if call.text == "hello")
    assert last - platform.call_times[0] <= 3600
    assert following.status == "sent"


async def _left_in_doubt(store: MemoryOutboxStore, platform: ToyPlatform, *, delivered: bool) -> None:
    """A row whose sender died over an hour ago, before or after the platform took it."""
    store.add("hello")
    (platform.after if delivered else platform.before)["hello"] = [sleeping(10)]
    async with sending(store, platform, channel_type=FullToyChannel):
        await trio.sleep(1)
    await trio.sleep(2 * 3600)


@simulated
@pytest.mark.parametrize("delivered", [True, False])
async def test_outbox_past_the_hour_the_chat_is_read_and_the_message_is_there_once(
    store: MemoryOutboxStore, delivered: bool
) -> None:
    platform = ToyPlatform()
    await _left_in_doubt(store, platform, delivered=delivered)
    async with sending(store, platform, channel_type=FullToyChannel):
        await trio.sleep(5)
    (row,) = store.rows.values()
    assert row.status == "sent"
    assert platform.visible == [("oc_1", "hello")]
    assert len(platform.calls) == (1 if delivered else 2)


@simulated
async def test_outbox_where_reading_is_refused_the_row_is_unknown_and_never_resent(store: MemoryOutboxStore) -> None:
    platform = ToyPlatform()
    platform.before[READ] = [raising(PlatformRefused("no permission", code=230027))]
    await _left_in_doubt(store, platform, delivered=False)
    following = store.add("next")
    async with sending(store, platform, channel_type=FullToyChannel):
        await trio.sleep(3 * 3600)
    row = next(iter(store.rows.values()))
    assert (row.status, row.error) == ("unknown", "the chat cannot be read: no permission")
    assert following.status == "sent"
    assert platform.visible == [("oc_1", "next")]


@simulated
async def test_outbox_reading_is_tried_again_while_the_platform_is_away(store: MemoryOutboxStore) -> None:
    platform = ToyPlatform()
    platform.before[READ] = [raising(PlatformUnavailable("away")), raising(PlatformThrottled("slow", retry_after=1))]
    await _left_in_doubt(store, platform, delivered=True)
    async with sending(store, platform, channel_type=FullToyChannel):
        await trio.sleep(600)
    assert [row.status for row in store.rows.values()] == ["sent"]
    assert [later - earlier for earlier, later in zip(platform.reads, platform.reads[1:], strict=False)] == [
        pytest.approx(75, abs=1)
    ] * 2


@simulated
async def test_outbox_reading_that_never_works_ends_after_a_day(store: MemoryOutboxStore) -> None:
    platform = ToyPlatform()
    platform.before[READ] = [raising(PlatformUnavailable("away")) for _ in range(10_000)]
    await _left_in_doubt(store, platform, delivered=True)
    async with sending(store, platform, channel_type=FullToyChannel):
        await trio.sleep(26 * 3600)
    assert [row.status for row in store.rows.values()] == ["unknown"]
    assert len(platform.calls) == 1


@simulated
async def test_outbox_chat_gets_five_messages_in_any_second_and_no_other_waits(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    for number in range(20):
        store.add(f"busy {number}", "oc_1")
    for number in range(20):
        store.add("single", f"oc_s{number}")
    async with sending(store, platform):
        await trio.sleep(0.1)
        assert sum(1 for chat, _ in platform.visible if chat != "oc_1") == 20
        await trio.sleep(10)
    assert platform.texts("oc_1") == [f"busy {number}" for number in range(20)]
    times = [at for call, at in zip(platform.calls, platform.call_times, strict=True) if call.chat_id == "oc_1"]
    assert all(later - earlier > 1 for earlier, later in zip(times, times[5:], strict=False))


@simulated
async def test_outbox_app_throttle_holds_everything_back_and_costs_no_attempts(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    rows = [store.add(f"{number}", f"oc_{number}") for number in range(30)]
    platform.before["0"] = [raising(PlatformThrottled("slow down", retry_after=5))]
    recorder = Recording()
    async with sending(store, platform, concurrency=1, recorder=recorder):
        await trio.sleep(4)
        assert len(platform.calls) == 1
        await trio.sleep(10)
    paces = Counter(recorder.seen("outbound_pace"))
    assert (paces["call",], paces["throttled_app",] + paces["throttled_chat",]) == (31, 1)
    assert {row.status for row in rows} == {"sent"}
    assert [row.row.attempts for row in rows] == [2] + [1] * 29


@simulated
async def test_outbox_platform_that_is_silent_is_left_alone(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    for number in range(40):
        store.add("hello", f"oc_{number}")
    platform.before["hello"] = [raising(PlatformUnavailable("away")) for _ in range(10_000)]
    async with sending(store, platform):
        await trio.sleep(120)
    assert len(platform.calls) < 80


@simulated
async def test_outbox_row_that_certainly_was_not_sent_may_take_longer_than_the_hour(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    row = store.add("hello")
    platform.before["hello"] = [raising(PlatformThrottled("slow down", retry_after=600)) for _ in range(10)]
    async with sending(store, platform):
        await trio.sleep(3 * 3600)
    assert row.status == "sent"


@simulated
async def test_outbox_poison_row_is_given_up_and_blocks_nobody(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    poison, same, other = store.add("poison"), store.add("same chat"), store.add("other", "oc_2")
    platform.before["poison"] = [raising(ValueError("secret text")) for _ in range(99)]
    async with sending(store, platform):
        await trio.sleep(1)
        assert other.status == "sent"
        await trio.sleep(120)
    assert (poison.status, poison.row.attempts) == ("unknown", 6)
    assert same.status == "sent"


@simulated
async def test_outbox_poison_row_is_failed_where_the_chat_does_not_show_it(store: MemoryOutboxStore) -> None:
    platform = ToyPlatform()
    poison, same = store.add("poison"), store.add("same chat")
    platform.before["poison"] = [raising(ValueError("secret text")) for _ in range(99)]
    async with sending(store, platform, channel_type=FullToyChannel):
        await trio.sleep(120)
    assert (poison.status, poison.error) == ("failed", "ValueError")
    assert same.status == "sent"


@simulated
@pytest.mark.parametrize("delivered", [True, False])
async def test_outbox_refusal_after_a_lost_answer_is_failed_only_if_the_chat_does_not_show_it(
    store: MemoryOutboxStore, delivered: bool
) -> None:
    """The bot was put out of the chat in between: what it said there may stand all the same."""
    platform = ToyPlatform()
    row, following = store.add("hello"), store.add("next")
    lost = [raising(PlatformUnavailable("connection reset"))]
    refused = [raising(PlatformRefused("bot not in chat", code=230002)) for _ in range(9)]
    platform.after["hello"] = lost if delivered else []
    platform.before["hello"] = [sleeping(0), *refused] if delivered else [*lost, *refused]
    async with sending(store, platform, channel_type=FullToyChannel):
        await trio.sleep(50)
        assert (row.status, following.status) == ("queued", "queued")
        await trio.sleep(50)
    assert row.status == ("sent" if delivered else "failed")
    assert (row.error, following.status) == ("" if delivered else "bot not in chat", "sent")
    assert platform.texts("oc_1") == (["hello", "next"] if delivered else ["next"])


@simulated
async def test_outbox_refusal_after_a_lost_answer_is_unknown_where_nobody_can_read(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    row = store.add("hello")
    platform.after["hello"] = [raising(PlatformUnavailable("connection reset"))]
    platform.before["hello"] = [sleeping(0), *(raising(PlatformRefused("no", code=230002)) for _ in range(9))]
    async with sending(store, platform):
        await trio.sleep(120)
    assert (row.status, platform.texts("oc_1")) == ("unknown", ["hello"])


@simulated
async def test_outbox_reading_that_fails_by_a_fault_of_ours_is_not_tried_all_the_time(store: MemoryOutboxStore) -> None:
    platform = ToyPlatform()
    platform.before[READ] = [raising(ValueError("a bug")) for _ in range(10_000)]
    await _left_in_doubt(store, platform, delivered=True)
    async with sending(store, platform, channel_type=FullToyChannel):
        await trio.sleep(600)
    assert [row.status for row in store.rows.values()] == ["queued"]
    assert len(platform.reads) <= 11


@simulated
async def test_outbox_composed_row_in_doubt_with_nothing_more_to_say_is_unknown(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    row = store.add("")
    texts = [Composed("hello"), None]

    async def compose(_row: OutboxRow) -> Composed | None:
        return texts.pop(0)

    platform.after["hello"] = [raising(PlatformUnavailable("connection reset"))]
    async with sending(store, platform, composers={"answer": compose}):
        await trio.sleep(10)
    assert (row.status, platform.texts("oc_1")) == ("unknown", ["hello"])


@simulated
async def test_outbox_chat_is_not_overrun_by_calls_that_arrive_late(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    for number in range(12):
        store.add(str(number))
    platform.before["0"] = [sleeping(0.9)]
    arrivals: list[float] = []

    async def arrive() -> None:
        arrivals.append(trio.current_time())

    for number in range(12):
        platform.after[str(number)] = [arrive]
    async with sending(store, platform):
        await trio.sleep(10)
    assert len(arrivals) == 12
    assert all(later - earlier > 1 for earlier, later in zip(arrivals, arrivals[5:], strict=False))


@simulated
async def test_outbox_store_outage_is_waited_out(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    row = store.add("hello")

    async def fail_the_mark() -> None:
        store.down = True

    platform.after["hello"] = [fail_the_mark]
    async with sending(store, platform):
        await trio.sleep(20)
        assert row.status == "sending"
        store.down = False
        await trio.sleep(20)
    assert row.status == "sent"
    assert platform.visible == [("oc_1", "hello")]


@simulated
async def test_outbox_hand_over_lets_a_quick_send_finish(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    row = store.add("hello")
    platform.before["hello"] = [sleeping(1)]
    async with sending(store, platform):
        await trio.sleep(0.7)
    assert row.status == "sent"


@simulated
async def test_outbox_hand_over_takes_half_a_second_at_most(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    rows = [store.add("slow", f"oc_{number}") for number in range(5)]
    platform.before["slow"] = [sleeping(2.4) for _ in rows]
    async with sending(store, platform):
        await trio.sleep(0.1)
        start = trio.current_time()
    assert trio.current_time() - start <= 0.5 + 1e-6
    assert {row.status for row in rows} == {"sending"}
    store.owner = 2
    async with sending(store, platform, epoch=2):
        await trio.sleep(1)
    assert {row.status for row in rows} == {"sent"}
    assert len(platform.visible) == 5


@simulated
async def test_outbox_nothing_is_sent_after_the_hand_over_began(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    store.add("one")
    store.add("two")
    platform.before["one"] = [sleeping(0.3)]
    async with sending(store, platform):
        await trio.sleep(0.1)
    assert [call.text for call in platform.calls] == ["one"]


@simulated
async def test_outbox_former_holder_sends_and_marks_nothing(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    row = store.add("hello")
    platform.before["hello"] = [sleeping(2)]
    async with sending(store, platform, epoch=1) as wake:
        await trio.sleep(1)
        store.owner = 2
        async with sending(store, platform, epoch=2):
            await trio.sleep(0.5)
            assert (row.status, row.epoch) == ("sent", 2)
        late = store.add("for the new one")
        wake.set()
        await trio.sleep(100)
    assert late.status == "queued"
    assert platform.visible == [("oc_1", "hello")]


@simulated
@pytest.mark.parametrize("error", [StoreConflict("deadlock"), StoreError("a mistake of ours")])
async def test_outbox_survives_whatever_the_store_says(
    store: MemoryOutboxStore, platform: ToyPlatform, error: StoreError
) -> None:
    """Under the lease it shares the fate of the link: ending here would cost the bot its hearing."""
    store.trouble = [error]
    store.add("hello")
    async with sending(store, platform):
        await trio.sleep(10)
    assert platform.visible == [("oc_1", "hello")]


@simulated
async def test_outbox_answer_of_a_bot_that_was_away_for_a_day_is_failed_and_not_sent(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    old = store.add("last month's", age_seconds=24 * 3600.0)
    young = store.add("today's", age_seconds=24 * 3600.0 - 60)
    async with sending(store, platform):
        await trio.sleep(1)
    assert (old.status, young.status) == ("failed", "sent")
    assert old.error == "not sent: it waited 24 hours for its bot"
    assert platform.visible == [("oc_1", "today's")]


@simulated
async def test_outbox_composed_row_gets_another_text_for_each_attempt(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    row = store.add("")
    made = iter(["first", "second"])

    async def compose(_row: OutboxRow) -> Composed:
        return Composed(next(made))

    platform.before["first"] = [raising(PlatformUnavailable("away"))]
    async with sending(store, platform, composers={"answer": compose}):
        await trio.sleep(10)
    assert platform.visible == [("oc_1", "second")]
    assert [call.idempotency_key for call in platform.calls] == [row.row.uuid] * 2
    assert (row.status, row.row.content) == ("sent", "")


@simulated
async def test_outbox_composed_row_with_nothing_to_say_is_not_sent(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    row = store.add("")
    store.add("next")

    async def compose(due: OutboxRow) -> Composed | None:
        return Composed(due.content) if due.content else None

    async with sending(store, platform, composers={"answer": compose}):
        await trio.sleep(1)
    assert platform.visible == [("oc_1", "next")]
    assert row.status == "failed"


@simulated
async def test_outbox_row_is_composed_again_when_the_store_is_back(
    store: MemoryOutboxStore, platform: ToyPlatform
) -> None:
    row = store.add("")
    away = [StoreUnavailable("away"), StoreUnavailable("away")]

    async def compose(_row: OutboxRow) -> Composed:
        if away:
            raise away.pop()
        return Composed("hello")

    async with sending(store, platform, composers={"answer": compose}):
        await trio.sleep(10)
    assert platform.visible == [("oc_1", "hello")]
    assert row.status == "sent"


@simulated
async def test_outbox_row_that_cannot_be_composed_is_given_up(store: MemoryOutboxStore, platform: ToyPlatform) -> None:
    row = store.add("")

    async def compose(_row: OutboxRow) -> Composed:
        raise RuntimeError("secret")

    async with sending(store, platform, composers={"answer": compose}):
        await trio.sleep(600)
    assert (platform.calls, row.status, row.error) == ([], "failed", "RuntimeError")


@simulated
@pytest.mark.parametrize("delivered", [True, False])
async def test_outbox_reads_before_it_repeats_where_the_platform_keeps_no_keys(
    store: MemoryOutboxStore, delivered: bool
) -> None:
    platform = ToyPlatform(key_seconds=0)
    lost = raising(PlatformUnavailable("the answer was lost"))
    (platform.after if delivered else platform.before)["hello"] = [lost]
    row = store.add("hello")
    async with sending(store, platform, channel_type=FullToyChannel, key_seconds=0):
        await trio.sleep(30)
        assert (len(platform.calls), platform.reads) == (1, [])
        await trio.sleep(120)
    assert row.status == "sent"
    assert len(platform.reads) == 1
    assert len(platform.calls) == (1 if delivered else 2)
