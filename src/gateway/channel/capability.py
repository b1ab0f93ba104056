"""Abilities of a channel, as a set of bits. Their order is fixed, because it is stored and shown."""

from __future__ import annotations

from enum import IntFlag


class Capability(IntFlag):
    """A set of abilities. `str()` names them lowest bit first; bits this version does not know follow once, in hex.

    ATTACHMENT and VOICE mean that the channel can receive such files, or send them, or both.
    """

    TEXT = 1 << 0
    RICH_CARD = 1 << 1
    THREAD_REPLY = 1 << 2
    QUOTE_REPLY = 1 << 3
    ATTACHMENT = 1 << 4
    VOICE = 1 << 5
    TYPING_INDICATOR = 1 << 6
    MESSAGE_EDIT = 1 << 7

    def has(self, needed: int) -> bool:
        """True if every bit of `needed` is set; always true when `needed` is 0."""
        return int(self) & needed == needed

    def __str__(self) -> str:
        known = [ability for ability in Capability if self.has(ability)]
        rest = int(self) & ~sum(known)
        names = [ability.name.lower() for ability in known if ability.name is not None]
        if rest:
            names.append(f"{rest:#x}")
        return "|".join(names) or "none"
