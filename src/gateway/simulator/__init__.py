"""A Lark platform on loopback, faithful enough for the official SDKs; for the demo and the tests.

`Simulator` is the platform in memory, `open_simulator` puts it on sockets for as long as a test runs, `run_simulator`
until cancelled. `rest` answers the calls of bots and `registration` those of scanned codes, `sockets` and `delivery`
are the long connection and `callbacks` the events over HTTP; `control` is the JSON API under /_sim/ for other
processes, `page` what people see.
"""

from gateway.simulator.server import open_simulator, run_simulator
from gateway.simulator.simulator import Said, Simulator

__all__ = ["Said", "Simulator", "open_simulator", "run_simulator"]
