"""Which platforms this process can serve."""

from __future__ import annotations

from gateway.channel.channel import Channel, ChannelConfig, ChannelFactory
from gateway.errors import GatewayError


class UnknownChannelType(GatewayError):
    """No factory is registered for this type."""

    def __init__(self, channel_type: str) -> None:
        super().__init__(f"no channel of type {channel_type!r} is registered")
        self.channel_type = channel_type


class Registry:
    """Factories by type. A later registration replaces an earlier one; an empty type or no factory is ignored."""

    def __init__(self) -> None:
        self._factories: dict[str, ChannelFactory] = {}

    def register(self, channel_type: str, factory: ChannelFactory | None) -> None:
        if channel_type and factory is not None:
            self._factories[channel_type] = factory

    def build(self, config: ChannelConfig) -> Channel:
        """Raises UnknownChannelType."""
        try:
            factory = self._factories[config.type]
        except KeyError as error:
            raise UnknownChannelType(config.type) from error
        return factory(config)

    def types(self) -> list[str]:
        return sorted(self._factories)
