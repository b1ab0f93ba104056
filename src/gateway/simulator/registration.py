"""The call of the accounts host that registers an app. Its actions are init, begin and poll; it takes forms."""

from __future__ import annotations

from typing import Any

from gateway.simulator.clock import SimulatorClock
from gateway.simulator.exchange import Answer, Request, Router, json_answer, read_query
from gateway.simulator.scans import Scans

PATH = "/oauth/v1/app/registration"


def add_routes(router: Router, scans: Scans, clock: SimulatorClock) -> None:
    """Add the call. It answers HTTP 400 with `error` for everything but a success, also while the person decides."""

    async def respond(request: Request) -> Answer:
        document = _answer(scans, request, clock.now())
        return json_answer(document, status=400 if "error" in document else 200)

    router.add("POST", PATH, respond)


def _answer(scans: Scans, request: Request, now: float) -> dict[str, Any]:
    form = {name: values[0] for name, values in read_query(request.body.decode(errors="replace")).items()}
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return _invalid("the body is not application/x-www-form-urlencoded")
    match form.get("action"):
        case "init":
            return {"supported_auth_methods": ["client_secret"]}
        case "begin":
            wanted = {"archetype": "PersonalAgent", "auth_method": "client_secret"}
            wrong = [name for name, value in wanted.items() if form.get(name) != value]
            if wrong or not form.get("request_user_info"):
                return _invalid(f"{', '.join(wrong) or 'request_user_info'} is missing or not known")
            return scans.begin(request.region, request.base_url, now)
        case "poll":
            return scans.poll(form.get("device_code", ""), request.region, now)
        case other:
            return _invalid(f"action {other!r} is not known")


def _invalid(description: str) -> dict[str, Any]:
    return {"error": "invalid_request", "error_description": description}
