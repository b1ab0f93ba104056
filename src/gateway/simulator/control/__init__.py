"""The JSON API under /_sim/ that drives a simulator from another process, a module per subject.

Apps, people and chats in paths and bodies are ids, or names where those are unique. Bodies with a member that the
call does not know are refused: a misspelt option must not pass for one that works. Errors are {code, msg}.
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
