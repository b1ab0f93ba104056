"""Who can show typing: the bit says so, and the calls are there."""

import pytest

from gateway.channel.capability import Capability
from gateway.channel.channel import typing_of
from support.outbox_channel import Toy, ToyChannel
from support.typing_channel import TypingToy, TypingToyChannel

ABLE = Capability.TEXT | Capability.TYPING_INDICATOR


def test_channel_with_the_bit_and_the_calls_can() -> None:
    channel = TypingToyChannel(TypingToy(), capabilities=ABLE)
    assert typing_of(channel) is channel


@pytest.mark.parametrize(
    "channel",
    [
        TypingToyChannel(TypingToy(), capabilities=Capability.TEXT),
        ToyChannel(Toy(), capabilities=Capability.TEXT),
        ToyChannel(Toy(), capabilities=ABLE),
    ],
    ids=["calls without the bit", "neither", "the bit without calls"],
)
def test_channel_without_both_cannot(channel: ToyChannel) -> None:
    assert typing_of(channel) is None
