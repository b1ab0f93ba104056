"""`/login` and `/lark/bind`.

The token of a link stands in the address of both, so no page sends a Referer to another site, loads anything from
elsewhere, or is kept by a cache.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from functools import partial
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
from gateway.work.accounts import SESSION_SECONDS
from gateway.work.directory import User

if TYPE_CHECKING:
    from gateway.http.app import People
    from gateway.http.identity import SignIn

LOGIN_PATH = "/login"
BIND_PATH = "/lark/bind"
NEXT_LENGTH_MAX = 2_048
STATES = {200: "done", 403: "not_member", 409: "taken", 410: "over"}
"""What the page says for the status of a redemption; `other` for any that is not here."""

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Vary": "Accept-Language, Cookie",
}
_pages = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined)


def add_routes(app: Quart, people: People, sessions: Sessions, sign_in: SignIn) -> None:
    _add_static(app)
    _add_login(app, people, sessions, sign_in)
    _add_bind(app, people, sessions)


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
        target = local_path(request.args.get("next", ""))
        user_id = await sessions.signed_in()
        if user_id is not None and target:
            return redirect(target, 303)
        person = None if user_id is None else await people.accounts.person(user_id)
        return _login(target, person=person)

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
        response = Response("", status=303, headers={"Location": target or LOGIN_PATH, "Cache-Control": "no-store"})
        sessions.start(response, secret, SESSION_SECONDS)
        return response


def _login(target: str, *, email: str = "", person: User | None = None, refusal: RejectedRequest | None = None) -> Any:
    status = 200 if refusal is None else refusal.status
    complaint = "" if refusal is None else {401: "wrong_pair", 403: "elsewhere", 429: "too_many"}.get(status, "other")
    seconds = "" if refusal is None else refusal.extra.get("retry_after", "")
    # A form of a page without any Referer would come with `Origin: null`; other sites are sent nothing either way.
    response = render_page(
        "login.html", status, "same-origin",
        target=target, email=email, person=person, complaint=complaint, seconds=seconds, here={"next": target},
        kept={"next": target} if target else {}, path=LOGIN_PATH,
    )  # fmt: skip
    if seconds:
        response.headers["Retry-After"] = str(seconds)
    return response


def _add_bind(app: Quart, people: People, sessions: Sessions) -> None:
    page = partial(_bind, people.platforms)

    @app.get(BIND_PATH)
    async def bind_page() -> Response:
        token = request.args.get("token", "").strip()
        if not token:
            return page("", "missing", status=400)
        user_id = await sessions.signed_in()
        if user_id is None:
            return page(token, "needs_auth")
        return page(token, "ready", person=await people.accounts.person(user_id))

    @app.post(BIND_PATH)
    async def bind_form() -> Response:
        form = await read_form()
        token, user_id = form.get("token", "").strip(), await sessions.signed_in()
        if user_id is None:
            return page(token, "needs_auth") if token else page("", "missing", status=400)
        status = 503
        if not hmac.compare_digest(form.get("proof", "").encode(), form_proof().encode()):
            status = 400
        elif people.platforms:
            status = await _redeem(people, token, user_id)
        return page(token, STATES.get(status, "other"), status=status)


async def _redeem(people: People, token: str, user_id: Any) -> int:
    try:
        await people.bindings.redeem(token, user_id)
    except RejectedRequest as refusal:
        return refusal.status
    return 200


def _bind(
    platforms: Sequence[Mapping[str, str]], token: str, state: str, *, status: int = 200, person: User | None = None
) -> Response:
    here = {"token": token} if token else {}
    proof = form_proof() if person is not None else ""
    return render_page(
        "bind.html", status, "no-referrer",
        state=state, person=person, proof=proof, here=here, path=BIND_PATH, platforms=platforms,
    )  # fmt: skip


def form_proof() -> str:
    """What only a page made for this session knows: another site can send our form, but not fill this in."""
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
        action=f"{path}?{urlencode(kept | lang)}" if kept or lang else path,
        **values,
    )
    headers = {**_HEADERS, "Referrer-Policy": referrer_policy, "Content-Language": language}
    return Response(text, status=status, mimetype="text/html", headers=headers)
