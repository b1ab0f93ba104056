"""Signing in, signing out, and reading who is signed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from quart import Blueprint, Response

from gateway.errors import StoreError
from gateway.http.auth import Callers
from gateway.http.body import NoBody, PersonBody, json_response, no_content, read_json
from gateway.http.client import Network, request_address, throttle_key
from gateway.http.session import Sessions, session_secret
from gateway.http.throttle import LoginThrottle
from gateway.work.people.accounts import SESSION_SECONDS, Accounts, TooBusy


class LoginBody(PersonBody):
    email: str
    password: str


class SignIn:
    """Signs people in, throttled by address and by account. The API and the page share it."""

    def __init__(self, accounts: Accounts, throttle: LoginThrottle, trusted_proxies: Sequence[Network]) -> None:
        self._accounts = accounts
        self._throttle = throttle
        self._trusted_proxies = trusted_proxies

    def require_budget(self) -> None:
        """Check the client's address, before the body is read.

        Raises TooMany if the address failed too often.
        """
        self._throttle.check(self._address())

    async def attempt(self, email: str, password: str) -> str:
        """Sign in and return the secret of a new session.

        Raises TooMany for too many failures, or for too many people who sign in at once, and Unauthenticated for a
        wrong pair of email and password. A wrong pair counts as a failure. So does a cancelled attempt, because its
        password is judged all the same.
        """
        address = self._address()
        self._throttle.admit(address, email)
        familiar = self._throttle.is_familiar(address, email)
        try:
            secret = await self._accounts.sign_in(email, password, familiar=familiar)
        except (StoreError, TooBusy):
            self._throttle.undecided(address, email)
            raise
        self._throttle.succeeded(address, email)
        return secret

    def _address(self) -> str:
        return throttle_key(request_address(self._trusted_proxies))


def routes(accounts: Accounts, sessions: Sessions, sign_in: SignIn, callers: Callers) -> Blueprint:
    blueprint = Blueprint("identity", __name__)

    @blueprint.post("/api/auth/login")
    async def login() -> Response:
        sessions.refuse_foreign_origin()
        sign_in.require_budget()
        body = await read_json(LoginBody)
        secret = await sign_in.attempt(body.email, body.password)
        response = json_response({"signed_in": True}, headers={"Cache-Control": "no-store"})
        sessions.start(response, secret, SESSION_SECONDS)
        return response

    @blueprint.post("/api/auth/logout")
    async def logout() -> Response:
        sessions.refuse_foreign_origin()
        await read_json(NoBody)
        secret = session_secret()
        if secret is not None:
            await accounts.sign_out(secret)
        response = no_content()
        sessions.end(response)
        return response

    @blueprint.get("/api/me")
    async def me() -> Response:
        user_id = (await callers.user()).user_id
        person = await accounts.person(user_id)
        return json_response({**asdict(person), "workspaces": await accounts.memberships(user_id)})

    return blueprint
