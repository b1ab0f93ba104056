"""A recorder that keeps what it is told, and refuses what the table of metrics does not declare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from gateway.observe.metrics import FAMILIES

TABLE = {family.event: family for family in FAMILIES}


@dataclass(frozen=True, slots=True)
class Report:
    """`labels` are the values of the labels, in the order of the table."""

    event: str
    value: float
    labels: tuple[str, ...]


@dataclass
class Recording:
    """Implements gateway.recorder.Recorder."""

    reports: list[Report] = field(default_factory=list)
    _news: trio.Event = field(default_factory=trio.Event)

    def count(self, event: str, /, **labels: str) -> None:
        self._keep("counter", event, 1, labels)

    def observe(self, event: str, value: float, /, **labels: str) -> None:
        self._keep("histogram", event, value, labels)

    def set(self, event: str, value: float, /, **labels: str) -> None:
        self._keep("gauge", event, value, labels)

    def _keep(self, kind: str, event: str, value: float, labels: Mapping[str, str]) -> None:
        family = TABLE[event]
        assert (family.kind, family.labels.keys()) == (kind, labels.keys()), f"{event} is a {family.kind}: {labels}"
        strange = {name: text for name, text in labels.items() if family.labels[name].normalise(text) != text}
        assert not strange, f"{event} would show other values than {strange}"
        self.reports.append(Report(event, value, tuple(labels[name] for name in family.labels)))
        self._news.set()
        self._news = trio.Event()

    def seen(self, event: str) -> list[tuple[str, ...]]:
        """The labels of every report of an event, in order."""
        return [report.labels for report in self.reports if report.event == event]

    def values(self, event: str) -> list[float]:
        """The value of every report of an event, in order."""
        return [report.value for report in self.reports if report.event == event]

    async def until(self, event: str, *labels: str) -> None:
        """Wait for the first report of an event with these labels."""
        while labels not in self.seen(event):
            await self._news.wait()
