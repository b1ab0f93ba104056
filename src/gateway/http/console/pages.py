"""The pages `/login` and `/lark/bind`.

The address of either may hold the token of a binding link. So no page sends its address to another site, loads anything
from another site, or is stored by a cache. No other site can show a page in a frame, where it could trick a person into
pressing its button.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from quart import Blueprint, Response, redirect, request

from gateway.errors import Conflict, DomainError, Forbidden, Gone, Invalid, NotFound, TooMany, Unauthenticated
from gateway.http.api.bindings import BindingLinks
from gateway.http.api.identity import SignIn
from gateway.http.console.language import LANGUAGES, accepted_languages, choose_language, words_of
from gateway.http.errors import status_of
from gateway.http.requests import read_form
from gateway.http.session import Sessions, session_secret
from gateway.ids import token_hash
from gateway.work.people.accounts import SESSION_SECONDS, Accounts
from gateway.work.people.bindings import LinkPreview
from gateway.work.people.directory import User

LOGIN_PATH = "/login"
BIND_PATH = "/lark/bind"
LINK_TOKEN_CHARS_MAX = 128
NEXT_LENGTH_MAX = 2_048
Words = Mapping[type[DomainError], str]
"""The word by which a template knows each sort of error; `other` stands for a sort that is not listed."""
BIND_STATES: Words = {
    Invalid: "missing",
    Forbidden: "not_member",
    Conflict: "taken",
    Gone: "over",
    TooMany: "too_many",
}
LOGIN_COMPLAINTS: Words = {Unauthenticated: "wrong_pair", Forbidden: "elsewhere", TooMany: "too_many"}
FORM_REFERRER_POLICY = "strict-origin"
"""The one referrer policy with which forms send their Origin, and no Referer holds the token in the page's address."""
OPEN_ID_END_CHARS = 6
"""The number of last characters of a platform's id that a person sees: enough to compare, short enough to read."""

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Vary": "Accept-Language, Cookie",
}
_pages = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined)


def routes(
    accounts: Accounts,
    sessions: Sessions,
    sign_in: SignIn,
    links: BindingLinks,
    platforms: Sequence[Mapping[str, str]],
) -> Blueprint:
    """Build the pages and their files. `platforms` holds the name of each served platform, by language."""
    blueprint = Blueprint("pages", __name__)
    _add_static(blueprint)
    _add_login(blueprint, accounts, sessions, sign_in)
    _add_bind(blueprint, BindPages(links, platforms), sessions)
    return blueprint


def _add_static(blueprint: Blueprint) -> None:
    files = {path.name: path.read_bytes() for path in (_HERE / "static").iterdir()}

    @blueprint.get("/static/<name>")
    async def console_file(name: str) -> Response:
        if name not in files:
            raise NotFound("not_found", "there is nothing at this path")
        headers = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}
        return Response(files[name], mimetype=_TYPES[Path(name).suffix], headers=headers)


def _add_login(blueprint: Blueprint, accounts: Accounts, sessions: Sessions, sign_in: SignIn) -> None:
    @blueprint.get(LOGIN_PATH)
    async def login_page() -> Any:
        target, switching = (
            local_path(request.args.get("next", ""), request.root_path),
            request.args.get("switch") == "1",
        )
        user_id = await sessions.signed_in()
        if user_id is not None and target and not switching:
            return redirect(target, 303)
        person = None if user_id is None else await accounts.person(user_id)
        return _login(target, person=person, switching=switching)

    @blueprint.post(LOGIN_PATH)
    async def login_form() -> Any:
        # `next` is in the address too, because the two checks below refuse a request before its form is read.
        target, email = local_path(request.args.get("next", ""), request.root_path), ""
        try:
            sessions.require_same_origin()
            sign_in.require_budget()
            form = await read_form()
            target, email = local_path(form.get("next", ""), request.root_path) or target, form.get("email", "")
            secret = await sign_in.attempt(email, form.get("password", ""))
        except DomainError as refusal:
            return _login(target, email=email, refusal=refusal)
        former = session_secret()
        if former is not None:
            await accounts.sign_out(former)
        location = target or on_this_server(LOGIN_PATH)
        response = Response("", status=303, headers={"Location": location, "Cache-Control": "no-store"})
        sessions.start(response, secret, SESSION_SECONDS)
        return response


def _login(
    target: str,
    *,
    email: str = "",
    person: User | None = None,
    switching: bool = False,
    refusal: DomainError | None = None,
) -> Any:
    """Render the login form, or the name of the person who is signed in.

    Both are shown if that person wants to sign in as another one (`switching`).
    """
    status = 200 if refusal is None else status_of(refusal)
    complaint = "" if refusal is None else word_for(refusal, LOGIN_COMPLAINTS)
    seconds = "" if refusal is None else refusal.extra.get("retry_after", "")
    target_query = {"next": target} if target else {}
    address = PageAddress(LOGIN_PATH, target_query | ({"switch": "1"} if switching else {}), kept=target_query)
    response = render_page(
        "login.html", address, status, referrer_policy=FORM_REFERRER_POLICY,
        target=target, email=email, person=person, switching=switching, complaint=complaint, seconds=seconds,
    )  # fmt: skip
    if seconds:
        response.headers["Retry-After"] = str(seconds)
    return response


def _add_bind(blueprint: Blueprint, pages: BindPages, sessions: Sessions) -> None:
    @blueprint.get(BIND_PATH)
    async def bind_page() -> Response:
        """Show what the link asks for. Opening it binds nothing."""
        token = link_token(request.args.get("token", ""))
        user_id = await sessions.signed_in()
        if not token or user_id is None:
            return pages.say(token, "needs_auth" if token else "missing", 200 if token else 400)
        return await pages.offer(token, user_id)

    @blueprint.post(BIND_PATH)
    async def bind_form() -> Response:
        """Bind the account, after a person read the page and pressed its button."""
        try:
            sessions.require_same_origin()
        except Forbidden as refusal:
            return pages.say("", "elsewhere", status_of(refusal))
        form = await read_form()
        token, user_id = link_token(form.get("token", "")), await sessions.signed_in()
        if not token or user_id is None:
            return pages.say(token, "needs_auth" if token else "missing", 200 if token else 400)
        if not hmac.compare_digest(form.get("proof", "").encode(), form_proof().encode()):
            return await pages.offer(token, user_id, changed=True)
        return await pages.redeem(token, user_id)


def link_token(text: str) -> str:
    """Return the token of a binding link; "" for a text that is longer than any token, which would only cost time."""
    token = text.strip()
    return token if len(token) <= LINK_TOKEN_CHARS_MAX else ""


class BindPages:
    """Renders the pages of a binding link: the offer, and the outcome."""

    def __init__(self, links: BindingLinks, platforms: Sequence[Mapping[str, str]]) -> None:
        self._links = links
        self._platforms = platforms

    async def offer(self, token: str, user_id: UUID, *, changed: bool = False) -> Response:
        """Show the account, the bot and the reader, with a button.

        With `changed` the page says that the session has changed since the form was made, and has status 409.
        """
        try:
            preview = await self._links.preview(token, user_id)
        except DomainError as refusal:
            return self._refuse(token, refusal)
        return self._render(token, "ready", 409 if changed else 200, preview=preview, changed=changed)

    async def redeem(self, token: str, user_id: UUID) -> Response:
        try:
            await self._links.redeem(token, user_id)
        except DomainError as refusal:
            return self._refuse(token, refusal)
        return self.say(token, "done")

    def say(self, token: str, state: str, status: int = 200, seconds: object = "") -> Response:
        return self._render(token, state, status, seconds=seconds)

    def _refuse(self, token: str, refusal: DomainError) -> Response:
        seconds = refusal.extra.get("retry_after", "")
        response = self.say(token, word_for(refusal, BIND_STATES), status_of(refusal), seconds)
        if seconds:
            response.headers["Retry-After"] = str(seconds)
        return response

    def _render(
        self,
        token: str,
        state: str,
        status: int,
        *,
        preview: LinkPreview | None = None,
        changed: bool = False,
        seconds: object = "",
    ) -> Response:
        return render_page(
            "bind.html", PageAddress(BIND_PATH, {"token": token} if token else {}), status,
            referrer_policy=FORM_REFERRER_POLICY, platforms=self._platforms,
            token=token, state=state, preview=preview, changed=changed, seconds=seconds,
            proof="" if preview is None else form_proof(), id_end_chars=OPEN_ID_END_CHARS,
        )  # fmt: skip


def word_for(error: DomainError, words: Words) -> str:
    return next((word for kind, word in words.items() if isinstance(error, kind)), "other")


def form_proof() -> str:
    """Return a value that only a page made for the current session holds.

    A form that returns it was shown to the person who is signed in now.
    """
    return token_hash(f"form {session_secret()}")


def local_path(text: str, prefix: str) -> str:
    """Return the text if it is a path on this server, to which a sign-in may redirect; empty for anything else.

    `prefix` is the path under which people reach this server. It is added to a path that lacks it.
    """
    local = text[:1] == "/" and text[:2] != "//" and "\\" not in text
    if not local or not text.isprintable() or len(text) > NEXT_LENGTH_MAX:
        return ""
    return text if _is_below(text, prefix) else f"{prefix}{text}"


def _is_below(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/", "?", "#"}


def on_this_server(path: str) -> str:
    """Return a path of a route as the browser must ask for it: below the path of `http.public_url`, if it has one."""
    return f"{request.root_path}{path}"


@dataclass(frozen=True, slots=True)
class PageAddress:
    """The address of a page: the path of its route, without its language.

    The links to the same page in other languages are made from it. `kept` are the query parameters of its form's
    address; they survive when the form is refused before it is read.
    """

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)

    def link(self, **parameters: str) -> str:
        return f"{on_this_server(self.path)}?{urlencode({**self.query, **parameters})}"

    def form_link(self, **parameters: str) -> str:
        query = urlencode({**self.kept, **parameters})
        return on_this_server(f"{self.path}?{query}" if query else self.path)


def render_page(
    template: str,
    address: PageAddress,
    status: int = 200,
    *,
    referrer_policy: str,
    platforms: Sequence[Mapping[str, str]] = (),
    **values: object,
) -> Response:
    """Render a page in the reader's language. `values` are the template's own."""
    asked = request.args.get("lang")
    language = choose_language(asked, accepted_languages(request.headers.get("Accept-Language", "")))
    # A language that was asked for is asked for in every link. One that the browser prefers needs no asking.
    lang = {} if asked is None else {"lang": language}
    sign_in = PageAddress(LOGIN_PATH, {"next": address.link(**lang)})
    text = _pages.get_template(template).render(
        words=words_of(language),
        language=language,
        base=request.root_path,
        platform=" / ".join(title.get(language, title["en"]) for title in platforms),
        other_languages=[
            (code, words_of(code)["language_name"], address.link(lang=code)) for code in LANGUAGES if code != language
        ],
        sign_in=sign_in.link(**lang),
        switch=sign_in.link(switch="1", **lang),
        action=address.form_link(**lang),
        **values,
    )
    headers = {**_HEADERS, "Referrer-Policy": referrer_policy, "Content-Language": language}
    return Response(text, status=status, mimetype="text/html", headers=headers)
