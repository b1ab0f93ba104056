import pytest

from gateway.channel.capability import Capability


@pytest.mark.parametrize(
    ("bits", "shown"),
    [
        (0, "none"),
        (1, "text"),
        (5, "text|thread_reply"),
        (Capability.VOICE | Capability.RICH_CARD, "rich_card|voice"),
        (1 << 40, "0x10000000000"),
        (1099511627777, "text|0x10000000000"),
        (1 | 1 << 8 | 1 << 9, "text|0x300"),
        (1 << 8, "0x100"),
        (
            255,
            "text|rich_card|thread_reply|quote_reply|attachment|voice|typing_indicator|message_edit",
        ),
        (
            (1 << 64) - 1,
            "text|rich_card|thread_reply|quote_reply|attachment|voice|typing_indicator|message_edit|0xffffffffffffff00",
        ),
    ],
)
def test_capability_text_names_the_lowest_bit_first(bits: int, shown: str) -> None:
    assert str(Capability(bits)) == shown


def test_capability_bits_have_a_fixed_order() -> None:
    names = "text rich_card thread_reply quote_reply attachment voice typing_indicator message_edit"
    assert " ".join(str(Capability(1 << bit)) for bit in range(8)) == names


@pytest.mark.parametrize(
    ("capability", "needed", "has"),
    [
        (5, 5, True),
        (5, 1, True),
        (5, 4, True),
        (5, 2, False),
        (5, 7, False),
        (5, 0, True),
        (0, 0, True),
        (0, 1, False),
        (1, 1 | 1 << 40, False),
        (1 | 1 << 40, 1 << 40, True),
        (1 | 1 << 40, 1 | 1 << 40, True),
        (1 << 40, 1 << 41, False),
    ],
)
def test_capability_has_means_every_needed_bit(capability: int, needed: int, has: bool) -> None:
    assert Capability(capability).has(needed) is has


def test_capability_keeps_bits_it_does_not_know_when_sets_are_joined() -> None:
    joined = Capability(1 << 40) | Capability.TEXT
    assert int(joined) == 1 | 1 << 40
    assert str(joined) == "text|0x10000000000"
