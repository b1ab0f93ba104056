import pytest

from gateway.channel.channel import Fence


def test_fence_fall_tears_everything_down_once() -> None:
    fence, calls = Fence(), list[str]()
    fence.on_fall(lambda: calls.append("a"))
    fence.on_fall(lambda: calls.append("b"))
    assert not fence.fallen
    fence.fall()
    fence.fall()
    assert fence.fallen
    assert calls == ["a", "b"]


def test_fence_teardown_registered_late_runs_at_once() -> None:
    fence, calls = Fence(), list[str]()
    fence.fall()
    fence.on_fall(lambda: calls.append("late"))()
    assert calls == ["late"]


def test_fence_teardown_that_was_taken_back_does_not_run() -> None:
    fence, calls = Fence(), list[str]()
    withdraw = fence.on_fall(lambda: calls.append("a"))
    withdraw()
    withdraw()
    fence.fall()
    assert calls == []


def test_fence_one_failing_teardown_does_not_spare_the_others() -> None:
    fence, calls = Fence(), list[str]()

    def fail() -> None:
        raise OSError("already closed")

    fence.on_fall(fail)
    fence.on_fall(lambda: calls.append("b"))
    with pytest.raises(ExceptionGroup) as raised:
        fence.fall()
    assert [str(error) for error in raised.value.exceptions] == ["already closed"]
    assert calls == ["b"]
