from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from gateway.channel.capability import Capability
from gateway.channel.channel import Channel, ChannelConfig, Verdict
from gateway.channel.lookup import Lookup
from gateway.channel.message import InboundMessage
from gateway.channel.registry import Registry, Traits, UnknownChannelType


async def settle(_message: InboundMessage) -> Verdict:
    return Verdict.SETTLED


def config(channel_type: str) -> ChannelConfig:
    return ChannelConfig(type=channel_type, installation_id=UUID(int=1), raw={}, handler=settle)


def factory(name: str) -> Callable[[ChannelConfig], Channel]:
    def build(_config: ChannelConfig) -> Any:
        return name

    return build


def test_registry_second_registration_of_a_type_replaces_the_first() -> None:
    registry = Registry()
    registry.register("feishu", factory("A"))
    registry.register("feishu", factory("B"))
    assert registry.build(config("feishu")) == "B"
    assert registry.types() == ["feishu"]


def test_registry_ignores_an_empty_type_and_no_factory() -> None:
    registry = Registry()
    registry.register("x", None)
    registry.register("", factory("A"))
    assert registry.types() == []


def test_registry_no_factory_does_not_remove_one() -> None:
    registry = Registry()
    registry.register("x", factory("A"))
    registry.register("x", None)
    assert registry.build(config("x")) == "A"


def test_registry_lookup_gives_the_factory_of_a_type_or_none() -> None:
    registry, made = Registry(), factory("A")
    registry.register("x", made)
    assert registry.lookup("x") is made
    assert registry.lookup("gone") is None
    assert registry.lookup("") is None


def test_registry_types_are_sorted() -> None:
    registry = Registry()
    for name in ("slack", "feishu", "telegram"):
        registry.register(name, factory(name))
    assert registry.types() == ["feishu", "slack", "telegram"]


def test_registry_unknown_type_raises_an_error_that_names_it() -> None:
    with pytest.raises(UnknownChannelType, match="'pager'") as raised:
        Registry().build(config("pager"))
    assert raised.value.channel_type == "pager"


def test_channel_config_repr_hides_what_the_installation_stores() -> None:
    shown = repr(
        ChannelConfig(type="x", installation_id=UUID(int=1), raw={"app_secret": "fake-secret"}, handler=settle)
    )
    assert "fake-secret" not in shown


async def lookup_of(_installation_id: UUID) -> Lookup:
    raise NotImplementedError


def equipped() -> Registry:
    registry = Registry()
    registry.register("bare", factory("A"))
    traits = Traits(
        titles={"en": "Full", "ja": "全部"},
        capabilities=Capability.TEXT | Capability.TYPING_INDICATOR,
        identity_keys=("app_id", "gate"),
        divide=lambda text: text.split(),
        lookup_of=lookup_of,
    )
    registry.register("full", factory("B"), traits)
    return registry


def test_registry_tells_what_each_platform_brought_along() -> None:
    registry = equipped()
    assert registry.types_with(Capability.TYPING_INDICATOR) == ["full"]
    assert registry.types_with(Capability.TEXT) == ["bare", "full"]
    assert [registry.divide(slug, "a b") for slug in ("bare", "full", "gone")] == [["a b"], ["a", "b"], ["a b"]]
    assert registry.message_lookups() == {"full": lookup_of}
    assert registry.titles() == [{"en": "bare"}, {"en": "Full", "ja": "全部"}]
    assert [registry.traits(slug).identity_keys for slug in ("full", "gone")] == [("app_id", "gate"), ("app_id",)]


def test_registry_second_registration_replaces_the_traits_as_well() -> None:
    registry = equipped()
    registry.register("full", factory("C"))
    assert registry.message_lookups() == {}
    assert registry.types_with(Capability.TYPING_INDICATOR) == []
