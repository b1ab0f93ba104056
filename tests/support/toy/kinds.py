"""The kinds of toys, which differ in what they declare, and the registration of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from gateway.channel.registry import Traits
from gateway.core.pacing import CallLimits, Limit
from gateway.daemon.foundation import Foundation
from gateway.daemon.platforms import Platform
from support.toy.channels import FullToyChannel, PollingToyChannel, ToyChannel, ToyFiles, ToyLookup
from support.toy.platform import ToyPlatform

IDENTITY_KEYS = ("app_id", "gate")


def in_pieces(text: str) -> list[str]:
    """An answer of the full toy: a message has a thousand characters at most."""
    return [text[start : start + 1000] for start in range(0, len(text), 1000)] or [""]


@dataclass(frozen=True)
class ToyKind:
    """One platform that is served: its slug, its channels and its traits."""

    slug: str
    channel: type[ToyChannel]
    traits: Traits
    has_history: bool = False
    """Whether past messages and files can be fetched."""

    def on(self, platform: ToyPlatform) -> Platform:
        """Return this kind as the daemon is given it, served by `platform`."""

        def register(foundation: Foundation) -> None:
            async def lookup_of(_installation_id: UUID) -> ToyLookup:
                return ToyLookup(platform)

            traits = replace(self.traits, lookup_of=lookup_of) if self.has_history else self.traits
            factory = partial(self.channel, platform, node=foundation.node_id)
            foundation.registry.register(self.slug, factory, traits)
            if self.has_history:
                foundation.files[self.slug] = ToyFiles(platform)

        return Platform(self.slug, register)


PLAIN = ToyKind("toy", ToyChannel, Traits({"en": "Toy"}, identity_keys=IDENTITY_KEYS, key_seconds=3600.0))
"""All that the contract demands: it hears and says plain words."""

FULL = ToyKind(
    "fulltoy",
    FullToyChannel,
    Traits({"en": "Full Toy"}, FullToyChannel.capabilities, IDENTITY_KEYS, divide=in_pieces, key_seconds=3600.0),
    has_history=True,
)
"""Everything that a channel may do besides."""

POLLED = ToyKind(
    "polledtoy",
    PollingToyChannel,
    Traits(
        {"en": "Polled Toy"},
        PollingToyChannel.capabilities,
        IDENTITY_KEYS,
        divide=in_pieces,
        limits=CallLimits(chat=(Limit(3, 1.0),)),
    ),
)
"""The sibling: no socket but a long poll, no cards but edits, and no idempotency keys."""
