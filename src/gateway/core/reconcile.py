"""Which installations should run, against which do.

`Roster.reconcile` changes the roster at once and returns what is to be done about it; nothing here waits. A generation
numbers every start, so that the late end of a replaced task never removes its successor.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec


@dataclass(frozen=True, slots=True)
class Start:
    """Begin to serve an installation; `after` is the generation that must have ended first, if one still runs."""

    installation_id: UUID
    fingerprint: str
    generation: int
    after: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain one generation. `gone`: the installation is not wanted any more, as opposed to replaced."""

    installation_id: UUID
    generation: int
    gone: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What one sweep found to do. A replacement is a stop and a start that waits for it; `keep` runs on untouched."""

    stop: tuple[Stop, ...] = ()
    start: tuple[Start, ...] = ()
    keep: tuple[UUID, ...] = ()


@dataclass(slots=True)
class Roster:
    """What runs here: one serving generation per installation, and those that are on their way out."""

    _serving: dict[UUID, Start] = field(default_factory=dict)
    _leaving: dict[UUID, int] = field(default_factory=dict)
    _generation: int = 0

    def reconcile(self, wanted: Mapping[UUID, str]) -> Plan:
        """Make the roster what `wanted` (fingerprints by installation) asks for, and say how to get there."""
        stops = [self._leave(id_, gone=id_ not in wanted) for id_ in self._outdated(wanted)]
        keep = tuple(id_ for id_ in wanted if id_ in self._serving)
        starts = [self._enter(id_, fingerprint) for id_, fingerprint in wanted.items() if id_ not in self._serving]
        return Plan(tuple(stops), tuple(starts), keep)

    def ended(self, installation_id: UUID, generation: int) -> None:
        """The task of that generation is over. A newer generation is left alone."""
        serving = self._serving.get(installation_id)
        if serving is not None and serving.generation == generation:
            del self._serving[installation_id]
        if self._leaving.get(installation_id) == generation:
            del self._leaving[installation_id]

    def _outdated(self, wanted: Mapping[UUID, str]) -> list[UUID]:
        return [id_ for id_, start in self._serving.items() if wanted.get(id_) != start.fingerprint]

    def _leave(self, installation_id: UUID, *, gone: bool) -> Stop:
        start = self._serving.pop(installation_id)
        self._leaving[installation_id] = start.generation
        return Stop(installation_id, start.generation, gone)

    def _enter(self, installation_id: UUID, fingerprint: str) -> Start:
        self._generation += 1
        start = Start(installation_id, fingerprint, self._generation, self._leaving.get(installation_id))
        self._serving[installation_id] = start
        return start


def fingerprint(
    key: bytes, channel_type: str, stored: Mapping[str, Any], opened: Mapping[str, Any], identity: Iterable[str]
) -> str:
    """What a link depends on: the `identity` keys of a config, and the secrets that opening it revealed.

    Sealing the same secret again changes nothing, nor does any key that is neither identity nor secret. The digest is
    keyed because it stands for a secret; `key` lives as long as the process, which is as long as digests are compared.
    """
    revealed = {name: value for name, value in opened.items() if name not in stored or stored[name] != value}
    said = (channel_type, {name: opened.get(name) for name in identity}, revealed)
    return hmac.new(key, msgspec.json.encode(said, order="sorted"), hashlib.sha256).hexdigest()
