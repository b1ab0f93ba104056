"""What becomes of a message whose worker is slow, fails or dies, whole pipelines against one store.

Each scenario runs in logical time against the store in memory and against Postgres, where a minute passes by ageing the
rows: `InboundWorld.age_claims` is how time passes for either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from gateway.channel.channel import Verdict
from gateway.core.inbound import DropReason, InboundOutcome
from gateway.errors import StoreUnavailable
from support.inbound_backend import InboundBackend, direct, open_pipeline

STEPS = ["find_identity", "ensure_session", "append"]
"""Where a worker may come to a halt between its claim and its append; `append` stands for a command's too."""
TEXTS = ["hello", "/issue Broken", "/new afresh"]
_APPENDS = frozenset({"append", "append_command"})


@dataclass
class Halting:
    """One worker's view of a store: the call named `halt` waits for `go_on`, and after `died` no call gets through."""

    store: Any
    halt: str
    halted: trio.Event = field(default_factory=trio.Event)
    go_on: trio.Event = field(default_factory=trio.Event)
    dies: bool = False
    died: bool = False

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.store, name)

        async def watched(*arguments: Any, **named: Any) -> Any:
            if name == self.halt or (self.halt == "append" and name in _APPENDS):
                self.halted.set()
                self.died = self.dies
                if not self.died:
                    await self.go_on.wait()
            if self.died:
                raise StoreUnavailable("this worker is dead")
            return await call(*arguments, **named)

        return watched


async def slow_worker_whose_claim_was_retaken_writes_nothing(backend: InboundBackend, step: str, text: str) -> None:
    await backend.bind(await backend.add_bot(), "ou_ann")
    slow = Halting(backend.store, step)
    async with _desk(backend, slow) as late, _desk(backend, backend.store) as quick, trio.open_nursery() as nursery:
        nursery.start_soon(late.receive, direct("om_1", text))
        await slow.halted.wait()
        assert await quick.receive(direct("om_1", text)) is Verdict.REDELIVER
        await backend.age_claims(61)
        assert await quick.receive(direct("om_1", text)) is Verdict.SETTLED
        before = await _everything(backend)
        slow.go_on.set()
    assert late.outcomes == [(InboundOutcome.DROPPED, DropReason.DUPLICATE)]
    assert await _everything(backend) == before
    assert len(await backend.messages()) == 1
    assert len(await backend.filed()) == (1 if text.startswith("/issue") else 0)
    assert await backend.drops() == []


async def slow_worker_that_wakes_first_writes_and_the_retaker_nothing(backend: InboundBackend, text: str) -> None:
    """Late, but nobody retook it: the work counts, and a later delivery is a duplicate."""
    await backend.bind(await backend.add_bot(), "ou_ann")
    slow = Halting(backend.store, "append")
    async with _desk(backend, slow) as late, _desk(backend, backend.store) as quick:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late.receive, direct("om_1", text))
            await slow.halted.wait()
            await backend.age_claims(61)
            slow.go_on.set()
        assert await quick.receive(direct("om_1", text)) is Verdict.SETTLED
    assert len(await backend.messages()) == 1


async def released_claim_is_retaken_at_once(backend: InboundBackend, step: str, text: str) -> None:
    await backend.bind(await backend.add_bot(), "ou_ann")
    failing = Halting(backend.store, step)
    async with _desk(backend, failing) as pipeline, _desk(backend, backend.store) as other:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipeline.receive, direct("om_1", text))
                await failing.halted.wait()
                scope.cancel()
        assert await backend.claims() == {}
        assert await other.receive(direct("om_1", text)) is Verdict.SETTLED
    assert len(await backend.messages()) == 1


async def crash_between_claim_and_append_is_retaken_after_a_minute(
    backend: InboundBackend, step: str, text: str
) -> None:
    await backend.bind(await backend.add_bot(), "ou_ann")
    dying = Halting(backend.store, step, dies=True)
    async with _desk(backend, dying) as pipeline, _desk(backend, backend.store) as survivor:
        with pytest.raises(StoreUnavailable):
            await pipeline.receive(direct("om_1", text))
        (left,) = (await backend.claims()).values()
        assert left.processed_at is None
        assert await backend.messages() == []
        assert await survivor.receive(direct("om_1", text)) is Verdict.REDELIVER
        await backend.age_claims(55)
        assert await survivor.receive(direct("om_1", text)) is Verdict.REDELIVER
        await backend.age_claims(6)
        assert await survivor.receive(direct("om_1", text)) is Verdict.SETTLED
        assert await survivor.receive(direct("om_1", text)) is Verdict.SETTLED
    assert len(await backend.messages()) == 1
    assert len(await backend.tasks()) == (0 if text.startswith("/issue") else 1)
    (row,) = (await backend.claims()).values()
    assert (row.token != left.token, row.processed_at is not None) == (True, True)


def _desk(backend: InboundBackend, store: Any) -> Any:
    return open_pipeline(store, fused=False, issues=backend.issues)


async def _everything(backend: InboundBackend) -> list[Any]:
    return [
        await look()
        for look in (backend.messages, backend.sessions, backend.tasks, backend.filed, backend.notices, backend.claims)
    ]
