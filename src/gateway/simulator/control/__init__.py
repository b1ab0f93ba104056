"""The JSON API under /_sim/ that drives a simulator from another process. There is one module for each subject.

Paths and bodies name apps and people by id, or by name where it is unique, and chats by id. A body with an unknown
member is refused, so that a misspelt option is noticed. Errors are {code, msg}.
"""

from __future__ import annotations

from gateway.simulator.control import conversations, events, failures, links, overview, people, scans
from gateway.simulator.control.calls import guarded
from gateway.simulator.simulator import Simulator

SUBJECTS = (overview, people, conversations, events, links, scans, failures)


def add_routes(simulator: Simulator) -> None:
    """Add the control calls to the simulator's router."""
    for subject in SUBJECTS:
        for method, path, call in subject.calls(simulator):
            simulator.router.add(method, f"/_sim/{path}", guarded(call))
