"""What the fleet starts, drains and keeps, row by row. Nothing runs here: the simulation tests run the tasks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from gateway.channel.channel import Channel, ConnectionState, InboundHandler
from gateway.channel.registry import Registry
from gateway.core.lease import LeaseSettings
from gateway.keyring import UnreadableSecret
from gateway.supervisor.fleet import Fleet
from gateway.supervisor.lease import Leases
from gateway.supervisor.phases import Phase
from gateway.supervisor.ports import ActiveInstallation, Serving
from support.lease_memory import LeaseTable, MemoryLeaseStore, Wire
from support.supervisor_cluster import TOY
from support.toy.channels import ToyChannel
from support.toy.platform import ToyPlatform

A, B = UUID(int=1), UUID(int=2)


@dataclass(slots=True)
class Vault:
    """Opens every secret but `unreadable`, and counts how often it was asked."""

    opened: list[str] = field(default_factory=list)

    def open(self, installation: ActiveInstallation) -> dict[str, Any]:
        self.opened.append(installation.config["secret"])
        if installation.config["secret"] == "unreadable":
            raise UnreadableSecret("its key is not on the ring")
        return {**installation.config, "secret": "opened " + installation.config["secret"]}


def _no_handler(_installation: ActiveInstallation) -> InboundHandler:
    raise AssertionError("no link is opened here")


async def _no_outbox(_installation: ActiveInstallation, _epoch: int, _channel: Channel) -> None:
    raise AssertionError("no link is opened here")


@pytest.fixture
def vault() -> Vault:
    return Vault()


@pytest.fixture
def fleet(vault: Vault) -> Fleet:
    registry = Registry()
    registry.register(TOY, partial(ToyChannel, ToyPlatform(), node="node"))
    store = MemoryLeaseStore(LeaseTable(), Wire())
    return Fleet(Leases(store, LeaseSettings()), Serving(registry, vault.open, _no_handler, _no_outbox), "node")


def row(id_: UUID = A, secret: str = "s1", *, lease_seconds: float | None = None) -> ActiveInstallation:
    return ActiveInstallation(id_, UUID(int=8), UUID(int=9), TOY, {"secret": secret}, lease_seconds)


async def test_fleet_starts_each_listed_row_once_with_a_token_of_its_own(fleet: Fleet) -> None:
    assert [each.token for each in fleet.adopt([row(A), row(B)])] == ["node-g1", "node-g2"]
    assert fleet.adopt([row(A), row(B)]) == []


async def test_fleet_drains_as_withdrawn_what_is_not_listed_any_more(fleet: Fleet) -> None:
    [started] = fleet.adopt([row()])
    fleet.adopt([])
    assert started.phase is Phase.WITHDRAWN


async def test_fleet_drains_what_does_not_open_any_more_but_not_as_withdrawn(fleet: Fleet) -> None:
    [started] = fleet.adopt([row()])
    fleet.adopt([row(secret="unreadable")])
    assert started.phase is Phase.DRAINING
    assert fleet.connections() == {(TOY, ConnectionState.UNREADABLE_SECRET): 1}


async def test_fleet_replaces_a_changed_row_by_one_that_waits_for_its_end(fleet: Fleet) -> None:
    [old] = fleet.adopt([row()])
    [new] = fleet.adopt([row(secret="s2")])
    assert (old.phase, new.predecessor_ended) == (Phase.DRAINING, old.ended)
    assert fleet.connections() == {(TOY, ConnectionState.CONNECTING): 1}


async def test_fleet_keeps_the_successor_when_the_replaced_one_ends_late(fleet: Fleet) -> None:
    [old] = fleet.adopt([row()])
    fleet.adopt([row(secret="s2")])
    fleet.ended(old)
    assert fleet.adopt([row(secret="s2")]) == []


async def test_fleet_makes_a_row_that_comes_back_while_it_drains_wait_for_the_end(fleet: Fleet) -> None:
    [old] = fleet.adopt([row()])
    fleet.adopt([])
    [new] = fleet.adopt([row()])
    assert new.predecessor_ended is old.ended


async def test_fleet_makes_a_row_that_comes_back_after_its_end_wait_for_nothing(fleet: Fleet) -> None:
    [old] = fleet.adopt([row()])
    fleet.adopt([])
    fleet.ended(old)
    [new] = fleet.adopt([row()])
    assert (new.predecessor_ended, new.token) == (None, "node-g2")


async def test_fleet_opens_the_secrets_of_an_unchanged_row_once(fleet: Fleet, vault: Vault) -> None:
    first, second = row(A), row(B, "unreadable")
    [started] = fleet.adopt([first, second])
    fleet.adopt([row(A, lease_seconds=3), row(B, "unreadable")])
    assert vault.opened == ["s1", "unreadable"]
    assert started.served.installation == replace(first, lease_seconds=3)
    assert started.served.installation.config is first.config  # the equal copy is dropped


async def test_fleet_names_an_unreadable_row_until_told_and_again_after_a_holder(fleet: Fleet) -> None:
    def read(lease_seconds: float | None = None) -> list[str]:
        fleet.adopt([row(secret="unreadable", lease_seconds=lease_seconds)])
        return [each.problem for each in fleet.untold()]

    problem = ["its key is not on the ring"]
    assert read() == read() == problem
    fleet.untold()[0].told = True
    assert read() == []
    assert read(lease_seconds=3) == []
    assert read() == problem


async def test_fleet_that_drains_leaves_the_end_of_what_drains_already_as_it_was(fleet: Fleet) -> None:
    [gone] = fleet.adopt([row()])
    fleet.adopt([])
    fleet.drain()
    assert gone.phase is Phase.WITHDRAWN
