"""What an adapter put into `raw` is nobody's business but its own."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.channel.channel import Verdict
from support.inbound_backend import direct, grouped, open_pipeline
from support.inbound_memory import MemoryInbound


class Untouchable:
    """Fails whoever looks inside, prints it or compares it."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"somebody asked raw for {name}")

    def __repr__(self) -> str:
        raise AssertionError("somebody printed raw")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("somebody compared raw")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("fused", [True, False])
async def test_message_is_taken_in_or_dropped_without_a_look_at_its_raw(fused: bool) -> None:
    backend = MemoryInbound()
    await backend.bind(await backend.add_bot(), "ou_ann")
    raw = Untouchable()
    async with open_pipeline(backend, fused=fused) as pipeline:
        for message in (
            direct("om_1", raw=raw),
            direct("om_2", raw=raw),
            direct("om_1", raw=raw),
            direct("om_3", sender="ou_stranger", raw=raw),
            grouped("om_4", addressed_to_bot=False, raw=raw),
            direct("om_5", app_id="cli_unknown", raw=raw),
        ):
            assert await pipeline.receive(message) is Verdict.SETTLED
    assert len(await backend.messages()) == 2
