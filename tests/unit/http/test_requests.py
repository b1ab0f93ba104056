"""Bodies within the bound of their route, forms within theirs, and the headers of every answer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from quart import Response

from gateway.http.app import JsonApp
from gateway.http.body import json_response, no_content
from gateway.http.bounds import FIELDS_MAX, SMALL, body_bounds, bound_of
from gateway.http.requests import read_form
from gateway.http.session import session_secret
from gateway.observe.metrics import Metrics

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MANY = b"&".join(b"a" for _ in range(FIELDS_MAX + 1))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def app(metrics: Metrics) -> JsonApp:
    app = JsonApp("test", recorder=metrics, bounds={"/form": 5_000})

    @app.post("/form")
    async def form() -> Response:
        return json_response(await read_form())

    @app.post("/other")
    async def other() -> Response:
        return no_content()

    @app.get("/cookie")
    async def cookie() -> Response:
        return json_response(session_secret())

    @app.get("/kept")
    async def kept() -> Response:
        return json_response(1, headers={"Cache-Control": "public"})

    @app.get("/bug")
    async def bug() -> Response:
        raise RuntimeError("bug")

    return app


async def send(app: JsonApp, path: str, data: bytes = b"", method: str = "POST", **headers: str) -> tuple[int, Any]:
    response = await app.test_client().open(path, method=method, data=data, headers={**FORM, **headers})
    text = await response.get_data()
    return response.status_code, msgspec.json.decode(text) if text else None


async def test_form_is_read_and_the_first_of_a_name_counts(app: JsonApp) -> None:
    assert await send(app, "/form", b"a=1&b=%C3%A9+x&a=2&c") == (200, {"a": "1", "b": "é x", "c": ""})


@pytest.mark.parametrize("data", [MANY, b"a=%FF", b"\xff=1"], ids=["many", "escaped", "raw"])
async def test_form_that_no_page_sends_is_400(app: JsonApp, data: bytes) -> None:
    status, answer = await send(app, "/form", data)
    assert (status, answer["code"]) == (400, "invalid_form")


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/json", "", "text/plain"])
async def test_body_of_another_type_has_no_fields(app: JsonApp, kind: str) -> None:
    assert await send(app, "/form", b"--x\r\n\r\na=1", **{"Content-Type": kind}) == (200, {})


@pytest.mark.parametrize(
    ("method", "path", "size", "status"),
    [
        ("POST", "/form", 5_000, 200),
        ("POST", "/form", 5_001, 413),
        ("POST", "/other", SMALL, 204),
        ("POST", "/other", SMALL + 1, 413),
        ("GET", "/kept", SMALL + 1, 413),
        ("POST", "/nowhere", 1_000_000, 404),
        ("PUT", "/form", 1_000_000, 405),
    ],
)
async def test_body_is_bounded_by_its_route(app: JsonApp, method: str, path: str, size: int, status: int) -> None:
    answered, answer = await send(app, path, b"a" * size, method, **{"Content-Length": str(size)})
    assert answered == status
    if status == 413:
        bound = 5_000 if path == "/form" else SMALL
        assert answer == {
            "error": f"the request body may have {bound} bytes here, and has more",
            "code": "body_too_large",
        }


async def test_query_with_too_many_parameters_is_400(app: JsonApp) -> None:
    assert (await send(app, f"/cookie?{MANY.decode()}", method="GET"))[1]["code"] == "too_many_parameters"
    assert (await send(app, f"/cookie?{'a&' * (FIELDS_MAX - 1)}", method="GET"))[0] == 200


@pytest.mark.parametrize(
    ("header", "secret"),
    [
        ("gateway_session=gws_a", "gws_a"),
        ("other=1; gateway_session=gws_a ;x=y", "gws_a"),
        ("xgateway_session=gws_a", None),
        ("gateway_session=", None),
        ("gateway_session", None),
        ("a=b;" * 3_000 + "gateway_session=gws_a", "gws_a"),
    ],
)
async def test_session_cookie_is_found_among_others(app: JsonApp, header: str, secret: str | None) -> None:
    assert await send(app, "/cookie", method="GET", Cookie=header) == (200, secret)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/cookie"), ("POST", "/other"), ("GET", "/nowhere"), ("PUT", "/form"), ("GET", "/bug"), ("HEAD", "/kept")],
)
async def test_every_answer_is_what_it_says_and_kept_by_nobody(app: JsonApp, method: str, path: str) -> None:
    response = await app.test_client().open(path, method=method)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == ("public" if path == "/kept" else "no-store")


async def test_method_that_was_made_up_is_no_series_of_its_own(app: JsonApp, metrics: Metrics) -> None:
    for number in range(3):
        assert (await send(app, "/kept", method=f"MADE{number}"))[0] == 405
    assert 'method="other"' in metrics.render().decode()
    assert "MADE" not in metrics.render().decode()


def test_route_without_a_bound_gets_the_small_one() -> None:
    bounds = body_bounds(reports=1_000_000, deliveries=200_000)
    assert bound_of("POST", "/login", bounds, SMALL) == 16_384
    assert bound_of("GET", "/login", bounds, SMALL) == SMALL
    assert bound_of("POST", "/api/auth/login", bounds, SMALL) == SMALL
    assert bound_of("POST", "/api/tasks/<id>/complete", bounds, SMALL) == 1_000_000
    assert bound_of("POST", "/api/webhooks/autopilots/<token>", bounds, SMALL) == 200_000
    assert "/api/webhooks/autopilots/<token>" not in body_bounds(reports=1)
