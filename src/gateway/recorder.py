"""What the process reports about itself while it works: events to count, durations to observe, levels to show.

Every layer may report. It names an event and gives its labels. `gateway.observe.metrics` implements the Recorder: its
table declares every event, and the values that each label may have.
"""

from __future__ import annotations

from typing import Final, Protocol


class Recorder(Protocol):
    """Takes reports. No method waits. The name of an event and the names of its labels are those of the table."""

    def count(self, event: str, /, **labels: str) -> None:
        """Count one event."""

    def observe(self, event: str, value: float, /, **labels: str) -> None:
        """Add one value, as a duration in seconds, to the distribution of its event."""

    def set(self, event: str, value: float, /, **labels: str) -> None:
        """Set the present level of something."""


class _Silent:
    def count(self, event: str, /, **labels: str) -> None: ...

    def observe(self, event: str, value: float, /, **labels: str) -> None: ...

    def set(self, event: str, value: float, /, **labels: str) -> None: ...


SILENT: Final[Recorder] = _Silent()
"""Reports to nobody: for commands and tests, which expose no metrics."""
