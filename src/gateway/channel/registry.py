"""The platforms that this process can serve, with the traits of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.channel.capability import Capability
from gateway.channel.channel import Channel, ChannelConfig, ChannelFactory
from gateway.channel.lookup import LookupOf
from gateway.core.pacing import UNLIMITED, CallLimits
from gateway.errors import GatewayError


class UnknownChannelType(GatewayError):
    """No factory is registered for this type."""

    def __init__(self, channel_type: str) -> None:
        super().__init__(f"no channel of type {channel_type!r} is registered")
        self.channel_type = channel_type


def _undivided(text: str) -> Sequence[str]:
    return [text]


@dataclass(frozen=True, slots=True)
class Traits:
    """The facts about a platform that other code needs without a channel of it. The defaults suit plain text only.

    `titles` are the names that people use for the platform, by language; without one it is shown by its slug.
    `capabilities` are those of its channels: without `TYPING_INDICATOR` no typing sign is ever asked for.
    `identity_keys` are config keys of an installation: a link is made anew when one of them changes, or a secret.
    `divide` returns the texts of the messages that an answer is sent as. `lookup_of` reads past messages; None if the
    platform offers no such reading. `limits` are the rate limits of the platform. `key_seconds` is for how long the
    platform drops a repeated message by its idempotency key: with 0, a message whose result is unknown is never sent
    again.
    """

    titles: Mapping[str, str] = field(default_factory=dict)
    capabilities: Capability = Capability.TEXT
    identity_keys: tuple[str, ...] = ("app_id",)
    divide: Callable[[str], Sequence[str]] = _undivided
    lookup_of: LookupOf | None = None
    limits: CallLimits = UNLIMITED
    key_seconds: float = 0.0


_BARE = Traits()


class Registry:
    """Platforms by type. A later registration replaces an earlier one; an empty type or no factory is ignored."""

    def __init__(self) -> None:
        self._factories: dict[str, ChannelFactory] = {}
        self._traits: dict[str, Traits] = {}

    def register(self, channel_type: str, factory: ChannelFactory | None, traits: Traits = _BARE) -> None:
        if channel_type and factory is not None:
            self._factories[channel_type] = factory
            self._traits[channel_type] = traits

    def lookup(self, channel_type: str) -> ChannelFactory | None:
        """Return the factory of a platform; None if it is not registered."""
        return self._factories.get(channel_type)

    def build(self, config: ChannelConfig) -> Channel:
        """Make a channel with the factory of its type. Raises UnknownChannelType."""
        factory = self.lookup(config.type)
        if factory is None:
            raise UnknownChannelType(config.type)
        return factory(config)

    def types(self) -> list[str]:
        return sorted(self._factories)

    def traits(self, channel_type: str) -> Traits:
        """Return the traits of a platform; the defaults if it is not, or no longer, registered."""
        return self._traits.get(channel_type, _BARE)

    def types_with(self, ability: Capability) -> list[str]:
        """Return the platforms whose channels have the ability."""
        return [channel_type for channel_type in self.types() if self._traits[channel_type].capabilities.has(ability)]

    def divide(self, channel_type: str, text: str) -> Sequence[str]:
        """Return the texts of the messages that a text is sent as on a platform."""
        return self.traits(channel_type).divide(text)

    def message_lookups(self) -> dict[str, LookupOf]:
        """Return `Traits.lookup_of` of each platform that has one, by its type."""
        known = ((channel_type, traits.lookup_of) for channel_type, traits in self._traits.items())
        return {channel_type: lookup_of for channel_type, lookup_of in known if lookup_of is not None}

    def titles(self) -> list[Mapping[str, str]]:
        """Return the names that people use for the platforms, by language; `en` is always there."""
        return [{"en": channel_type, **self._traits[channel_type].titles} for channel_type in self.types()]
