"""Health probes: `/healthz` says that the process serves, `/readyz` that it can take traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Quart, Response

from gateway.http.body import json_response

if TYPE_CHECKING:
    from gateway.observe.health import Readiness


def add_routes(app: Quart, readiness: Readiness) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        report = await readiness.report()
        return json_response(report, 200 if report.ready else 503)
