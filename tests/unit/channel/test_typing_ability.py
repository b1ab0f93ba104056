"""Who can show typing: the bit says so, and the calls are there."""

import pytest

from gateway.channel.capability import Capability
from gateway.channel.channel import Channel, typing_of
from support.toy.channels import ToyChannel, TypingToyChannel
from support.toy.platform import ToyPlatform

ABLE = Capability.TEXT | Capability.TYPING_INDICATOR


def channel_of(kind: type[ToyChannel], capabilities: Capability) -> Channel:
    channel = kind(ToyPlatform())
    channel.capabilities = capabilities
    return channel


def test_channel_with_the_bit_and_the_calls_can() -> None:
    channel = channel_of(TypingToyChannel, ABLE)
    assert typing_of(channel) is channel


@pytest.mark.parametrize(
    ("kind", "capabilities"),
    [(TypingToyChannel, Capability.TEXT), (ToyChannel, Capability.TEXT), (ToyChannel, ABLE)],
    ids=["calls without the bit", "neither", "the bit without calls"],
)
def test_channel_without_both_cannot(kind: type[ToyChannel], capabilities: Capability) -> None:
    assert typing_of(channel_of(kind, capabilities)) is None
