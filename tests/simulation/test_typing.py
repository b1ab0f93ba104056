"""Signs that runs last, on a clock of their own: before the answer, never instead of it."""

from __future__ import annotations

import pytest
import trio

from gateway.channel.capability import Capability
from gateway.channel.errors import (
    PlatformError,
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
)
from support.outbox_memory import MemoryOutboxStore, MemoryTypingStore, sending
from support.recording import Recording
from support.simulated import simulated
from support.toy.channels import TypingToyChannel
from support.toy.platform import HIDE, SHOW, ToyPlatform, raising, sleeping


class UnableChannel(TypingToyChannel):
    """Has the calls, but not the bit."""

    capabilities = Capability.TEXT


WHOLE = [("show", "om_1"), ("hide", "om_1"), ("answer", "done")]


@pytest.fixture
def store() -> MemoryOutboxStore:
    return MemoryOutboxStore()


@pytest.fixture
def typing(store: MemoryOutboxStore) -> MemoryTypingStore:
    return MemoryTypingStore(store)


@pytest.fixture
def platform() -> ToyPlatform:
    return ToyPlatform()


@simulated
async def test_sign_is_shown_while_the_run_lasts_and_gone_before_the_answer(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    recorder = Recording()
    async with sending(store, platform, typing=typing, recorder=recorder) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(60)
        assert (sign.status, platform.log) == ("shown", WHOLE[:1])
        ended = trio.current_time()
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(0.5)
    assert (sign.status, platform.log) == ("gone", WHOLE)
    assert platform.call_times[0] - ended < 0.1
    assert recorder.seen("typing_calls") == [("show", "ok"), ("hide", "ok")]


@simulated
async def test_sign_that_goes_slowly_holds_the_answer_back_for_a_second_at_most(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    platform.before[HIDE] = [sleeping(2)]
    async with sending(store, platform, typing=typing) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(1)
        ended = trio.current_time()
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(5)
    assert platform.log == [WHOLE[0], WHOLE[2], WHOLE[1]]
    assert platform.call_times[0] - ended == pytest.approx(1, abs=0.05)
    assert sign.status == "gone"


@simulated
@pytest.mark.parametrize(
    "error",
    [
        PlatformUnavailable("away"),
        PlatformThrottled("slow down", retry_after=7, whole_app=False),
        PlatformUnauthorized("which app?"),
    ],
)
async def test_sign_that_cannot_go_now_is_taken_away_after_the_answer(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform, error: PlatformError
) -> None:
    platform.before[HIDE] = [raising(error)]
    async with sending(store, platform, typing=typing) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(1)
        ended = trio.current_time()
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(25)
    assert platform.log == [WHOLE[0], WHOLE[2], WHOLE[1]]
    assert platform.call_times[0] - ended < 0.1
    assert sign.status == "gone"


@simulated
async def test_sign_that_never_goes_is_given_up(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    platform.before[HIDE] = [raising(PlatformUnavailable("away")) for _ in range(99)]
    async with sending(store, platform, typing=typing) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(1)
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(3600)
    assert (sign.status, platform.typing_calls.count("hide")) == ("failed", 6)
    assert platform.texts("oc_om_1") == ["done"]


@simulated
@pytest.mark.parametrize(
    "error",
    [
        PlatformRefused("not in chat", code=230002),
        PlatformThrottled("slow down", retry_after=1),
        PlatformUnauthorized("who?"),
    ],
)
async def test_sign_that_is_not_to_be_shown_now_is_given_up_and_answered_at_once(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform, error: PlatformError
) -> None:
    platform.before[SHOW] = [raising(error)]
    recorder = Recording()
    async with sending(store, platform, typing=typing, recorder=recorder) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(30)
        assert sign.status == "failed"
        assert recorder.seen("typing_calls") == [("show", "failed")]
        ended = trio.current_time()
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(5)
    assert platform.typing_calls == ["show"]
    assert platform.call_times[0] - ended < 0.1


@simulated
async def test_sign_of_an_ended_run_that_was_never_begun_needs_no_call(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    async with sending(store, platform, typing=typing) as wake:
        sign = typing.begin("om_1")
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(0.1)
        assert platform.log == [("answer", "done")]
    assert platform.typing_calls == []


@simulated
async def test_sign_of_a_cancelled_run_goes_although_nothing_is_said(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    async with sending(store, platform, typing=typing) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(1)
        typing.end(sign)
        wake.set()
        await trio.sleep(1)
    assert platform.log == WHOLE[:2]


@simulated
async def test_sign_that_comes_after_its_run_ended_goes_at_once(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    platform.before[SHOW] = [sleeping(2)]
    async with sending(store, platform, typing=typing) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(0.1)
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(1.5)
        assert platform.log == [("answer", "done")]
        await trio.sleep(0.6)
    assert (sign.status, platform.log) == ("gone", [WHOLE[2], WHOLE[0], WHOLE[1]])


@simulated
async def test_sign_with_a_lost_answer_is_named_by_a_repeat(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    platform.after[SHOW] = [sleeping(60)]
    async with sending(store, platform, typing=typing) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(10)
        assert (sign.status, platform.typing_calls) == ("shown", ["show", "show"])
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(1)
    assert platform.log == WHOLE


@simulated
async def test_sign_in_doubt_to_the_end_is_named_and_taken_away_then(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    platform.after[SHOW] = [raising(PlatformUnavailable("reset")) for _ in range(3)]
    async with sending(store, platform, typing=typing) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(100)
        assert (sign.status, platform.typing_calls) == ("wanted", ["show"] * 3)
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(1)
    assert (sign.status, platform.log) == ("gone", WHOLE)


@simulated
async def test_sign_in_doubt_that_cannot_be_named_is_failed(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    platform.after[SHOW] = [raising(PlatformUnavailable("reset"))]
    platform.before[SHOW] = [
        sleeping(0),
        raising(PlatformRefused("no", code=1)),
        raising(PlatformRefused("no", code=1)),
    ]
    async with sending(store, platform, typing=typing) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(10)
        assert sign.status == "wanted"
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(2)
    assert (sign.status, platform.typing_calls) == ("failed", ["show"] * 3)
    assert platform.texts("oc_om_1") == ["done"]


@simulated
async def test_sign_is_not_begun_once_its_message_is_old(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    sign = typing.begin("om_1")
    await trio.sleep(121)
    async with sending(store, platform, typing=typing):
        await trio.sleep(60)
        assert (sign.status, platform.typing_calls) == ("wanted", [])


@simulated
@pytest.mark.parametrize("moment", ["showing", "shown", "hiding"])
async def test_sign_is_taken_away_by_the_next_holder(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform, moment: str
) -> None:
    """Two processes: the first one's lease ends in the middle of a call, whose effect nobody heard of."""
    if moment == "showing":
        platform.after[SHOW] = [sleeping(2)]
    if moment == "hiding":
        platform.after[HIDE] = [sleeping(2)]
    sign = typing.begin("om_1")
    async with sending(store, platform, typing=typing) as wake:
        await trio.sleep(0.1)
        if moment == "hiding":
            typing.end(sign, "done")
            wake.set()
            await trio.sleep(0.1)
    store.owner = 2
    if moment != "hiding":
        typing.end(sign, "done")
    async with sending(store, platform, typing=typing, epoch=2):
        await trio.sleep(10)
    assert (sign.status, platform.signs) == ("gone", {})
    assert platform.log == WHOLE


@simulated
async def test_former_holder_settles_nothing(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    sign = typing.begin("om_1")
    platform.before[SHOW] = [sleeping(1)]
    async with sending(store, platform, typing=typing, epoch=1):
        await trio.sleep(0.1)
        store.owner = 2
        async with sending(store, platform, typing=typing, epoch=2):
            await trio.sleep(0.1)
            assert (sign.status, sign.epoch) == ("shown", 2)
            await trio.sleep(5)
    assert (sign.status, platform.typing_calls) == ("shown", ["show", "show"])


@simulated
async def test_hand_over_waits_half_a_second_for_a_sign(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    sign = typing.begin("om_1")
    platform.before[SHOW] = [sleeping(2.4)]
    async with sending(store, platform, typing=typing):
        await trio.sleep(0.1)
        start = trio.current_time()
    assert trio.current_time() - start <= 0.5 + 1e-6
    assert (sign.status, sign.attempts) == ("wanted", 1)


@simulated
async def test_channel_that_cannot_show_typing_is_never_asked(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    async with sending(store, platform, typing=typing, channel_type=UnableChannel) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(60)
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(0.1)
    assert (sign.status, platform.log, typing.looks) == ("gone", [("answer", "done")], 0)


@simulated
async def test_idle_bot_asks_nothing_about_signs(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    async with sending(store, platform, typing=typing):
        await trio.sleep(3600)
    assert typing.looks == 1


@simulated
async def test_few_signs_are_under_way_at_a_time(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    platform.before[SHOW] = [sleeping(1) for _ in range(10)]
    signs = [typing.begin(f"om_{number}") for number in range(10)]
    async with sending(store, platform, typing=typing):
        await trio.sleep(3.5)
    assert platform.typing_in_flight_max == 4
    assert {sign.status for sign in signs} == {"shown"}


@simulated
async def test_store_outage_is_waited_out(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    async def fail_the_mark() -> None:
        typing.down = True

    platform.after[SHOW] = [fail_the_mark]
    async with sending(store, platform, typing=typing) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(20)
        assert sign.status == "wanted"
        typing.down = False
        await trio.sleep(2)
        assert sign.status == "shown"
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(1)
    assert platform.log == WHOLE


@simulated
async def test_fault_of_our_own_costs_the_sign_and_nothing_else(
    store: MemoryOutboxStore, typing: MemoryTypingStore, platform: ToyPlatform
) -> None:
    platform.before[SHOW] = [raising(ValueError("secret")), raising(ValueError("secret"))]
    recorder = Recording()
    async with sending(store, platform, typing=typing, recorder=recorder) as wake:
        sign = typing.begin("om_1")
        wake.set()
        await trio.sleep(100)
        assert platform.typing_calls == ["show"]
        typing.end(sign, "done")
        wake.set()
        await trio.sleep(10)
    assert platform.texts("oc_om_1") == ["done"]
    assert sign.status == "gone"
    faults = [("show", "fault"), ("show", "postponed")] * 2
    assert recorder.seen("typing_calls") == [*faults, ("show", "ok"), ("hide", "ok")]
