"""The entry of Lark and Feishu: what a process needs for serving them, and what it registers."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from gateway.channel.channel import ChannelFactory
from gateway.channel.registry import Traits
from gateway.lark.api.clients import InstallationClients, InstallationSource, LarkClients, OpenStored
from gateway.lark.api.proxy import Proxies
from gateway.lark.chat import channel
from gateway.lark.chat.cards import split_answer
from gateway.lark.chat.connection import ConnectionSettings, open_tcp_link
from gateway.lark.chat.content import CHANNEL_TYPE
from gateway.lark.chat.lookup import LarkLookup
from gateway.lark.chat.resources import LarkFiles
from gateway.lark.install.shown import details
from gateway.recorder import Recorder

__all__ = ["CHANNEL_TYPE", "Needs", "Parts", "build", "details"]


@dataclass(frozen=True, slots=True)
class Needs:
    """The objects of the process that Lark builds on. They belong to the caller, and outlive what is built.

    `tls` is shared, because each context takes close to a megabyte.
    """

    clients: LarkClients
    source: InstallationSource
    open_secrets: OpenStored
    tls: ssl.SSLContext
    proxies: Proxies
    connection: ConnectionSettings
    recorder: Recorder


@dataclass(frozen=True, slots=True)
class Parts:
    """The entry of Lark in the registry: the factory of channels, the platform's traits, the source of files."""

    factory: ChannelFactory
    traits: Traits
    files: LarkFiles


def build(needs: Needs) -> Parts:
    clients = InstallationClients(needs.source, needs.open_secrets, needs.clients)

    async def lookup_of(installation_id: UUID) -> LarkLookup:
        return LarkLookup(await clients.client_of(installation_id))

    traits = Traits(
        titles=channel.TITLES,
        capabilities=channel.CAPABILITIES,
        identity_keys=channel.IDENTITY_KEYS,
        divide=split_answer,
        lookup_of=lookup_of,
        limits=channel.LIMITS,
        key_seconds=channel.KEY_SECONDS,
    )
    dial = partial(open_tcp_link, ssl_context=needs.tls, proxies=needs.proxies, settings=needs.connection)
    factory = channel.lark_factory(needs.clients, open_stream=dial, settings=needs.connection, recorder=needs.recorder)
    return Parts(factory, traits, LarkFiles(clients.client_of))
