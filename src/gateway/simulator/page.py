"""Pages for people: a chat window to talk to bots, and the page behind a scanned code, to agree or refuse."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gateway.simulator.exchange import Answer, Request
from gateway.simulator.simulator import Simulator

STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("chat.html", "text/html; charset=utf-8"),
    "/page/launcher": ("launcher.html", "text/html; charset=utf-8"),
    "/static/launcher.js": ("launcher.js", "text/javascript; charset=utf-8"),
    "/static/rich.js": ("rich.js", "text/javascript; charset=utf-8"),
    "/static/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
    "/static/chat.css": ("chat.css", "text/css; charset=utf-8"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data: 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'"
)


def add_routes(simulator: Simulator) -> None:
    """Add the pages and their assets. They use the control API, and load nothing from other hosts."""
    for path, (name, content_type) in FILES.items():
        headers = (
            ("content-type", content_type),
            ("content-security-policy", POLICY),
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
        )
        answer = Answer(200, (STATIC / name).read_bytes(), headers)
        simulator.router.add("GET", path, partial(_show, answer))


async def _show(answer: Answer, _request: Request) -> Answer:
    return answer
