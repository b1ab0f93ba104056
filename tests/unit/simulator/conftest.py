"""A platform with one person and one bot, and the chat of the two."""

from __future__ import annotations

import pytest

from gateway.simulator.platform import Person, SimChat
from gateway.simulator.simulator import Simulator
from support.platform_caller import Caller


@pytest.fixture
async def simulator() -> Simulator:
    return Simulator(seed=1)


@pytest.fixture
async def ada(simulator: Simulator) -> Person:
    return simulator.create_person("Ada")


@pytest.fixture
async def caller(simulator: Simulator) -> Caller:
    caller = Caller(simulator, simulator.create_app("Echo"))
    await caller.log_in()
    return caller


@pytest.fixture
async def chat(simulator: Simulator, caller: Caller, ada: Person) -> SimChat:
    return simulator.direct_chat(ada, caller.app)
