"""`/login` and `/lark/bind`.

The token of a link stands in the address of both, so no page sends its address to another site, loads anything from
elsewhere, or is kept by a cache. No other site can show one in a frame of its own, where a press is not a decision.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from quart import Quart, Response, redirect, request

from gateway.errors import RejectedRequest
from gateway.http.console.language import LANGUAGES, accepted_languages, choose_language, words_of
from gateway.http.requests import read_form
from gateway.http.session import Sessions, session_secret
from gateway.ids import token_hash
from gateway.work.people.accounts import SESSION_SECONDS
from gateway.work.people.directory import User

if TYPE_CHECKING:
    from uuid import UUID

    from gateway.http.api.bindings import BindingLinks
    from gateway.http.api.identity import SignIn
    from gateway.http.app import People
    from gateway.work.people.bindings import LinkPreview

LOGIN_PATH = "/login"
BIND_PATH = "/lark/bind"
LINK_TOKEN_CHARS_MAX = 128
NEXT_LENGTH_MAX = 2_048
STATES = {400: "missing", 403: "not_member", 409: "taken", 410: "over", 429: "too_many"}
"""What the page says for the status of a refusal; `other` for any that is not here."""
FORM_REFERRER_POLICY = "strict-origin"
"""Of all policies the one that lets a form tell its Origin, and no Referer tell the token in the page's address."""
OPEN_ID_END_CHARS = 6
"""How much of the end of a platform's id a person is shown: enough to compare, short enough to read."""

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


def add_routes(app: Quart, people: People, sessions: Sessions, sign_in: SignIn, links: BindingLinks) -> None:
    _add_static(app)
    _add_login(app, people, sessions, sign_in)
    _add_bind(app, BindPages(links, people.platforms), sessions)


def _add_static(app: Quart) -> None:
    files = {path.name: path.read_bytes() for path in (_HERE / "static").iterdir()}

    @app.get("/static/<name>")
    async def console_file(name: str) -> Response:
        if name not in files:
            raise RejectedRequest(404, "not_found", "there is nothing at this path")
        headers = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}
        return Response(files[name], mimetype=_TYPES[Path(name).suffix], headers=headers)


def _add_login(app: Quart, people: People, sessions: Sessions, sign_in: SignIn) -> None:
    @app.get(LOGIN_PATH)
    async def login_page() -> Any:
        target, switching = local_path(request.args.get("next", "")), request.args.get("switch") == "1"
        user_id = await sessions.signed_in()
        if user_id is not None and target and not switching:
            return redirect(target, 303)
        person = None if user_id is None else await people.accounts.person(user_id)
        return _login(target, person=person, switching=switching)

    @app.post(LOGIN_PATH)
    async def login_form() -> Any:
        # Where to go next stands in the address too: what is refused here is refused before the form is read.
        target, email = local_path(request.args.get("next", "")), ""
        try:
            sessions.require_same_origin()
            sign_in.require_budget()
            form = await read_form()
            target, email = local_path(form.get("next", "")) or target, form.get("email", "")
            secret = await sign_in.attempt(email, form.get("password", ""))
        except RejectedRequest as refusal:
            return _login(target, email=email, refusal=refusal)
        former = session_secret()
        if former is not None:
            await people.accounts.sign_out(former)
        response = Response("", status=303, headers={"Location": target or LOGIN_PATH, "Cache-Control": "no-store"})
        sessions.start(response, secret, SESSION_SECONDS)
        return response


def _login(
    target: str,
    *,
    email: str = "",
    person: User | None = None,
    switching: bool = False,
    refusal: RejectedRequest | None = None,
) -> Any:
    """The form, or who is signed in; both when that person wants to be somebody else (`switching`)."""
    status = 200 if refusal is None else refusal.status
    complaint = "" if refusal is None else {401: "wrong_pair", 403: "elsewhere", 429: "too_many"}.get(status, "other")
    seconds = "" if refusal is None else refusal.extra.get("retry_after", "")
    response = render_page(
        "login.html", status, FORM_REFERRER_POLICY,
        target=target, email=email, person=person, switching=switching, complaint=complaint, seconds=seconds,
        here={"next": target, "switch": "1" if switching else ""}, kept={"next": target} if target else {},
        path=LOGIN_PATH,
    )  # fmt: skip
    if seconds:
        response.headers["Retry-After"] = str(seconds)
    return response


def _add_bind(app: Quart, pages: BindPages, sessions: Sessions) -> None:
    @app.get(BIND_PATH)
    async def bind_page() -> Response:
        """Shows what the link asks for. To open it binds nothing."""
        token = link_token(request.args.get("token", ""))
        user_id = await sessions.signed_in()
        if not token or user_id is None:
            return pages.say(token, "needs_auth" if token else "missing", 200 if token else 400)
        return await pages.offer(token, user_id)

    @app.post(BIND_PATH)
    async def bind_form() -> Response:
        """Binds: somebody read the page and pressed its button."""
        try:
            sessions.require_same_origin()
        except RejectedRequest as refusal:
            return pages.say("", "elsewhere", refusal.status)
        form = await read_form()
        token, user_id = link_token(form.get("token", "")), await sessions.signed_in()
        if not token or user_id is None:
            return pages.say(token, "needs_auth" if token else "missing", 200 if token else 400)
        if not hmac.compare_digest(form.get("proof", "").encode(), form_proof().encode()):
            return await pages.offer(token, user_id, changed=True)
        return await pages.redeem(token, user_id)


def link_token(text: str) -> str:
    """The token of a binding link; "" for a text that is longer than any, which would only cost a page its time."""
    token = text.strip()
    return token if len(token) <= LINK_TOKEN_CHARS_MAX else ""


class BindPages:
    """The pages of a binding link: what it asks for, and what became of it."""

    def __init__(self, links: BindingLinks, platforms: Sequence[Mapping[str, str]]) -> None:
        self._links = links
        self._platforms = platforms

    async def offer(self, token: str, user_id: UUID, *, changed: bool = False) -> Response:
        """Name the account, the bot and the reader, with a button; `changed`: somebody signed in since."""
        try:
            preview = await self._links.preview(token, user_id)
        except RejectedRequest as refusal:
            return self._refuse(token, refusal)
        return self._render(token, "ready", 409 if changed else 200, preview=preview, changed=changed)

    async def redeem(self, token: str, user_id: UUID) -> Response:
        try:
            await self._links.redeem(token, user_id)
        except RejectedRequest as refusal:
            return self._refuse(token, refusal)
        return self.say(token, "done")

    def say(self, token: str, state: str, status: int = 200, seconds: object = "") -> Response:
        return self._render(token, state, status, seconds=seconds)

    def _refuse(self, token: str, refusal: RejectedRequest) -> Response:
        seconds = refusal.extra.get("retry_after", "")
        response = self.say(token, STATES.get(refusal.status, "other"), refusal.status, seconds)
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
            "bind.html", status, FORM_REFERRER_POLICY,
            state=state, preview=preview, changed=changed, seconds=seconds,
            proof="" if preview is None else form_proof(), id_end_chars=OPEN_ID_END_CHARS,
            here={"token": token} if token else {}, path=BIND_PATH, platforms=self._platforms,
        )  # fmt: skip


def form_proof() -> str:
    """What only a page made for this session knows: a form that comes back with it was read by who is signed in now."""
    return token_hash(f"form {session_secret()}")


def local_path(text: str) -> str:
    """A path on this server, as it may be gone to after signing in; empty for anything else."""
    local = text[:1] == "/" and text[:2] != "//" and "\\" not in text
    return text if local and text.isprintable() and len(text) <= NEXT_LENGTH_MAX else ""


def render_page(template: str, status: int, referrer_policy: str, **values: Any) -> Response:
    """A page in the reader's language.

    `path` and `here` are its own address, for the links to other languages; `kept` is what the address of its form has
    too, for when the form is refused unread.
    """
    asked = request.args.get("lang")
    language = choose_language(asked, accepted_languages(request.headers.get("Accept-Language", "")))
    path, here = values.pop("path"), {name: value for name, value in values["here"].items() if value}
    titles = [title.get(language, title["en"]) for title in values.pop("platforms", ())]
    lang = {} if asked is None else {"lang": language}
    kept = values.pop("kept", {})
    back = {"next": f"{path}?{urlencode(here | lang)}"}
    text = _pages.get_template(template).render(
        words=words_of(language),
        language=language,
        platform=" / ".join(titles),
        other_languages=[
            (code, words_of(code)["language_name"], f"{path}?{urlencode(here | {'lang': code})}")
            for code in LANGUAGES
            if code != language
        ],
        sign_in=f"{LOGIN_PATH}?{urlencode(back | lang)}",
        switch=f"{LOGIN_PATH}?{urlencode(back | {'switch': '1'} | lang)}",
        action=f"{path}?{urlencode(kept | lang)}" if kept or lang else path,
        **values,
    )
    headers = {**_HEADERS, "Referrer-Policy": referrer_policy, "Content-Language": language}
    return Response(text, status=status, mimetype="text/html", headers=headers)
