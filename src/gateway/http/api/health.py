"""Health probes: `/healthz` says that the process serves, `/readyz` that it can take traffic."""

from __future__ import annotations

from quart import Blueprint, Response

from gateway.http.body import json_response
from gateway.observe.health import Readiness


def routes(readiness: Readiness) -> Blueprint:
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @blueprint.get("/readyz")
    async def readyz() -> Response:
        report = await readiness.report()
        return json_response(report, 200 if report.ready else 503)

    return blueprint
