"""The application: every error is JSON, every request is counted by its pattern, and nothing leaks."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio
from quart import Response, redirect, request
from structlog.testing import capture_logs

from gateway.channel.errors import PlatformRefused
from gateway.errors import Conflict, StoreConflict, StoreUnavailable
from gateway.http.api import health
from gateway.http.app import JsonApp
from gateway.http.auth import (
    Callers,
    Principal,
    RuntimePrincipal,
    UserPrincipal,
)
from gateway.http.body import json_response, read_json
from gateway.http.metrics import create_metrics_app
from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics

USER = UserPrincipal(UUID(int=1))
RUNTIME = RuntimePrincipal(UUID(int=2), UUID(int=3))


class Shape(msgspec.Struct):
    name: str = "nobody"


async def authenticate(token: str) -> Principal | None:
    if token == "gwu_away":
        raise StoreUnavailable("the database is away: secret details")
    return {"gwu_good": USER, "gwr_good": RUNTIME}.get(token)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
def app(metrics: Metrics, readiness: Readiness) -> JsonApp:
    app = JsonApp("test", recorder=metrics, bounds={"/api/small": 20}, body_bytes_max=1000)
    app.register_blueprint(health.routes(readiness))
    callers = Callers(authenticate)

    @app.post("/api/issues/<uuid:id>")
    async def create(id: UUID) -> Response:
        return json_response({"id": id}, 201)

    @app.get("/api/issues/<id>")
    async def read(id: str) -> Response:
        return json_response({"length": len(id)}, 201)

    @app.get("/api/me")
    async def me() -> Response:
        return json_response({"id": (await callers.user()).user_id})

    @app.get("/api/runtime")
    async def runtime() -> Response:
        return json_response({"id": (await callers.runtime()).runtime_id})

    @app.post("/api/echo")
    async def echo() -> Response:
        return json_response(await read_json(Shape))

    @app.post("/api/small")
    async def small() -> Response:
        return json_response(await read_json(Shape))

    @app.get("/old")
    async def old() -> Any:
        return redirect("/new")

    @app.get("/api/raise/<name>")
    async def fail(name: str) -> Response:
        raise ERRORS[name]

    @app.get("/api/nursery/<name>")
    async def fail_deeply(name: str) -> Response:
        async def fail() -> None:
            raise ERRORS[name]

        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            inner.start_soon(fail)
            outer.start_soon(trio.lowlevel.checkpoint)
        return Response()

    return app


ERRORS: dict[str, Exception] = {
    "rejected": Conflict("taken", "it is taken", field="name"),
    "away": StoreUnavailable("the database is away: secret details"),
    "conflict": StoreConflict("duplicate key: secret details"),
    "lark": PlatformRefused("no: secret details"),
    "bug": RuntimeError("secret details"),
}


async def body(response: Any) -> Any:
    assert response.mimetype == "application/json"
    return msgspec.json.decode(await response.get_data())


async def test_unknown_path_is_404_in_json(app: JsonApp) -> None:
    response = await app.test_client().get("/nowhere/secret")
    assert response.status_code == 404
    assert await body(response) == {"error": "there is nothing at this path", "code": "not_found"}


async def test_wrong_method_is_405_in_json_with_allow(app: JsonApp) -> None:
    response = await app.test_client().delete("/api/echo")
    assert response.status_code == 405
    assert (await body(response))["code"] == "method_not_allowed"
    assert "POST" in response.headers["Allow"]


async def test_redirect_stays_a_redirect(app: JsonApp) -> None:
    response = await app.test_client().get("/old")
    assert response.status_code == 302


async def test_body_above_the_bound_is_413_in_json(app: JsonApp) -> None:
    response = await app.test_client().post("/api/echo", data=b'{"name": "' + b"x" * 1000 + b'"}')
    assert response.status_code == 413
    assert (await body(response))["code"] == "body_too_large"


async def test_body_above_the_bound_of_its_route_is_413(app: JsonApp) -> None:
    response = await app.test_client().post("/api/small", data=b'{"name": "0123456789"}')
    assert response.status_code == 413
    assert (await body(response))["code"] == "body_too_large"


@pytest.mark.parametrize(("sent", "name"), [(b"", "nobody"), (b'{"name": "n"}', "n")])
async def test_body_is_read_and_may_be_empty(app: JsonApp, sent: bytes, name: str) -> None:
    response = await app.test_client().post("/api/echo", data=sent)
    assert await body(response) == {"name": name}


async def test_bad_body_is_400_with_its_field(app: JsonApp) -> None:
    response = await app.test_client().post("/api/echo", data=b'{"name": 1}')
    assert response.status_code == 400
    answer = await body(response)
    assert (answer["code"], answer["field"]) == ("invalid_body", "name")


@pytest.mark.parametrize("route", ["raise", "nursery"])
@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("rejected", 409, "taken"),
        ("away", 503, "store_unavailable"),
        ("conflict", 500, "internal_error"),
        ("lark", 500, "internal_error"),
        ("bug", 500, "internal_error"),
    ],
)
async def test_error_of_a_route_is_answered_by_its_kind(
    app: JsonApp, route: str, name: str, status: int, code: str
) -> None:
    with capture_logs():
        response = await app.test_client().get(f"/api/{route}/{name}")
    assert response.status_code == status
    answer = await body(response)
    assert answer["code"] == code
    assert "secret details" not in answer["error"]


async def test_unexpected_error_is_logged_with_traceback_and_counted(app: JsonApp, metrics: Metrics) -> None:
    with capture_logs() as logs:
        await app.test_client().get("/api/raise/bug")
    (entry,) = [entry for entry in logs if entry["event"] == "http_request_failed"]
    assert entry["exc_info"] is ERRORS["bug"]
    assert 'gateway_unexpected_errors_total{unit="http"} 1.0' in metrics.render().decode()


async def test_store_that_is_away_is_told_when_to_retry(app: JsonApp) -> None:
    response = await app.test_client().get("/api/raise/away")
    assert response.headers["Retry-After"] == "1"


async def test_request_is_counted_by_pattern_and_leaks_nothing(app: JsonApp, metrics: Metrics) -> None:
    response = await app.test_client().post(f"/api/issues/{UUID(int=77)}?token=secret-token")
    assert response.status_code == 201
    text = metrics.render().decode()
    assert 'gateway_http_requests_total{method="POST",route="/api/issues/{id}",status="201"} 1' in text
    assert 'gateway_http_request_duration_seconds_count{method="POST",route="/api/issues/{id}",status="201"} 1' in text
    assert "gateway_http_in_flight 0.0" in text
    assert "secret-token" not in text
    assert str(UUID(int=77)) not in text


async def test_request_is_counted_by_pattern_whatever_stands_in_the_path(app: JsonApp, metrics: Metrics) -> None:
    client = app.test_client()
    assert (await client.get("/api/issues/secret-issue-id?token=secret-token")).status_code == 201
    text = metrics.render().decode()
    assert 'gateway_http_requests_total{method="GET",route="/api/issues/{id}",status="201"} 1' in text
    assert "secret-issue-id" not in text
    assert "secret-token" not in text


async def test_request_without_route_is_counted_as_unmatched(app: JsonApp, metrics: Metrics) -> None:
    await app.test_client().get("/secret-path")
    text = metrics.render().decode()
    assert 'gateway_http_requests_total{method="GET",route="unmatched",status="404"} 1' in text
    assert "secret-path" not in text


async def test_request_whose_client_leaves_is_counted_and_not_in_flight(app: JsonApp, metrics: Metrics) -> None:
    @app.get("/api/slow")
    async def slow() -> Response:
        entered.set()
        await trio.sleep_forever()
        return Response()

    entered = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app.test_client().get, "/api/slow")
        await entered.wait()
        assert "gateway_http_in_flight 1.0" in metrics.render().decode()
        nursery.cancel_scope.cancel()
    text = metrics.render().decode()
    assert "gateway_http_in_flight 0.0" in text
    assert 'route="/api/slow",status="499"} 1' in text


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_probe_is_not_counted(app: JsonApp, metrics: Metrics, path: str) -> None:
    await app.test_client().get(path)
    assert "gateway_http_requests_total{" not in metrics.render().decode()


async def test_healthz_is_200(app: JsonApp) -> None:
    response = await app.test_client().get("/healthz")
    assert (response.status_code, await body(response)) == (200, {"status": "ok"})


async def test_readyz_follows_its_checks(app: JsonApp, readiness: Readiness) -> None:
    problem: list[str] = []

    async def database() -> str | None:
        return problem[0] if problem else None

    readiness.add("database", database, kept_seconds=0)
    response = await app.test_client().get("/readyz")
    expected = {"status": "ok", "checks": {"database": "ok"}, "bots": {}}
    assert (response.status_code, await body(response)) == (200, expected)
    problem.append("it is away")
    response = await app.test_client().get("/readyz")
    expected = {"status": "unavailable", "checks": {"database": "it is away"}, "bots": {}}
    assert (response.status_code, await body(response)) == (503, expected)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "unauthenticated"),
        ("", "invalid_token"),
        ("Bearer", "invalid_token"),
        ("Bearer ", "invalid_token"),
        ("Basic Zm9vOmJhcg==", "invalid_token"),
        ("Bearer gwu_unknown", "invalid_token"),
        ("Bearer gwu_good extra", "invalid_token"),
        ("gwu_good", "invalid_token"),
        ("Bearer gwu_gööd", "invalid_token"),
    ],
)
@pytest.mark.parametrize("path", ["/api/me", "/api/runtime"])
async def test_request_without_good_token_is_401(app: JsonApp, path: str, header: str | None, code: str) -> None:
    headers = {} if header is None else {"Authorization": header}
    response = await app.test_client().get(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert (await body(response))["code"] == code


@pytest.mark.parametrize(("path", "token", "principal"), [("/api/me", "gwu_good", 1), ("/api/runtime", "gwr_good", 2)])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_good_token_identifies_its_owner(
    app: JsonApp, path: str, token: str, principal: int, scheme: str
) -> None:
    response = await app.test_client().get(path, headers={"Authorization": f"{scheme} {token}"})
    assert await body(response) == {"id": str(UUID(int=principal))}


@pytest.mark.parametrize(
    ("path", "token", "code"),
    [("/api/me", "gwr_good", "user_token_required"), ("/api/runtime", "gwu_good", "runtime_token_required")],
)
async def test_token_of_the_other_kind_is_403(app: JsonApp, path: str, token: str, code: str) -> None:
    response = await app.test_client().get(path, headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 403
    assert (await body(response))["code"] == code


async def test_token_is_looked_up_once_per_request(app: JsonApp) -> None:
    calls = []

    async def counting(token: str) -> Principal | None:
        calls.append(token)
        return RUNTIME

    callers = Callers(counting)

    @app.get("/api/twice")
    async def twice() -> Response:
        return json_response([(await callers.runtime()).runtime_id, (await callers.runtime()).runtime_id])

    response = await app.test_client().get("/api/twice", headers={"Authorization": "Bearer gwr_good"})
    assert await body(response) == [str(RUNTIME.runtime_id)] * 2
    assert calls == ["gwr_good"]


async def test_token_lookup_without_database_is_503_not_401(app: JsonApp) -> None:
    response = await app.test_client().get("/api/me", headers={"Authorization": "Bearer gwu_away"})
    assert response.status_code == 503


async def test_request_context_is_the_routes_own(app: JsonApp) -> None:
    @app.get("/api/where")
    async def where() -> Response:
        return json_response({"path": request.path})

    assert await body(await app.test_client().get("/api/where")) == {"path": "/api/where"}


async def test_metrics_listener_answers_metrics_only(metrics: Metrics) -> None:
    client = create_metrics_app(metrics).test_client()
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert (await response.get_data()).endswith(b"# EOF\n")
    for path in ("/", "/health", "/healthz", "/readyz", "/metrics/x", "/api/me"):
        assert (await client.get(path)).status_code == 404
    assert "gateway_http_requests_total{" not in metrics.render().decode()
