"""The metrics listener's application: `/metrics`, and 404 for everything else."""

from __future__ import annotations

from quart import Response

from gateway.http.app import JsonApp
from gateway.observe.metrics import CONTENT_TYPE, Metrics

KEEP_ALIVE_SECONDS = 10.0


def create_metrics_app(metrics: Metrics) -> JsonApp:
    """Build the application that serves `/metrics`. Its own requests are not counted.

    It is for `serve_http(..., keep_alive_seconds=KEEP_ALIVE_SECONDS)` on an address of its own, loopback if possible.
    """
    app = JsonApp("gateway.http.metrics", recorder=metrics, counted=False)

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(metrics.render(), content_type=CONTENT_TYPE)

    return app
