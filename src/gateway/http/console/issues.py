"""The page of an issue, and `/issues/{key}`, to which the links in replies lead and which redirects to that page."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlencode

from quart import Blueprint, Response, redirect

from gateway.errors import NotFound
from gateway.http.console.pages import LOGIN_PATH, PageAddress, on_this_server, render_page
from gateway.http.session import Sessions
from gateway.work.issues.pages import COMMENTS_MAX, IssuePages, IssueView, parse_key

_PICTURE = re.compile(r"!\[\]\((/api/attachments/[0-9a-f-]{36}/download)\)")
_RESERVED = frozenset({"api", "static"})
"""First parts of paths that are never a workspace: paths below them are not pages for people."""


def routes(issues: IssuePages, sessions: Sessions) -> Blueprint:
    blueprint = Blueprint("issue_pages", __name__)

    @blueprint.get("/issues/<key>")
    async def find_issue(key: str) -> Any:
        user_id = await sessions.signed_in()
        if user_id is None:
            return _sign_in(f"/issues/{quote(key)}")
        return redirect(on_this_server(_path(await _find(issues, user_id, key))), 303)

    @blueprint.get("/<workspace>/issues/<key>")
    async def issue_page(workspace: str, key: str) -> Any:
        if workspace in _RESERVED:
            raise _absent()
        user_id = await sessions.signed_in()
        if user_id is None:
            return _sign_in(f"/{quote(workspace)}/issues/{quote(key)}")
        issue = await _find(issues, user_id, key, workspace)
        comments = await issues.comments(issue, COMMENTS_MAX)
        response = render_page(
            "issue.html", PageAddress(_path(issue)), referrer_policy="no-referrer",
            issue=issue, comments=comments, pieces=in_pieces(issue.description),
        )  # fmt: skip
        response.headers["Content-Security-Policy"] += "; img-src 'self'"
        return response

    return blueprint


async def _find(issues: IssuePages, user_id: Any, key: str, workspace: str | None = None) -> IssueView:
    parsed = parse_key(key)
    issue = None if parsed is None else await issues.find(user_id, *parsed, workspace=workspace)
    if issue is None:
        raise _absent()
    return issue


def in_pieces(description: str) -> list[tuple[str, str]]:
    """Split a description into texts and pictures: pairs of "text" and the text, or "picture" and its path.

    Only pictures that this server stores count as pictures.
    """
    # `split` returns texts and captured paths in turn, so every second piece is a picture.
    pieces = _PICTURE.split(description)
    return [("picture" if place % 2 else "text", piece) for place, piece in enumerate(pieces) if piece]


def _path(issue: IssueView) -> str:
    return f"/{quote(issue.workspace_slug)}/issues/{quote(issue.key)}"


def _sign_in(path: str) -> Response:
    location = f"{on_this_server(LOGIN_PATH)}?{urlencode({'next': on_this_server(path)})}"
    response = Response("", status=303, headers={"Location": location})
    response.headers["Cache-Control"] = "no-store"
    return response


def _absent() -> NotFound:
    return NotFound("not_found", "there is nothing at this path")
