"""A Lark platform on loopback, faithful enough for the official SDKs. It is for the demo and the tests.

`Simulator` is the platform in memory. `open_simulator` serves it on sockets as long as a block runs, `run_simulator`
until cancelled. `rest` answers the calls of bots, `registration` those of scanned codes. `sockets` and `delivery` are
the long connection, `callbacks` the events over HTTP. `control` is the JSON API under /_sim/ for other processes, and
`page` the pages for people.
"""

from gateway.simulator.server import open_simulator, run_simulator
from gateway.simulator.simulator import SaidMessage, Simulator

__all__ = ["SaidMessage", "Simulator", "open_simulator", "run_simulator"]
