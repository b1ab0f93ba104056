"""Conversations of people with agents: listing them, reading their messages, and ending them."""

from __future__ import annotations

from dataclasses import asdict

from quart import Blueprint, Response

from gateway.http.auth import Callers
from gateway.http.body import json_response, no_content
from gateway.http.paging import PAGED, listing, read_page
from gateway.http.query import takes
from gateway.ids import parse_id
from gateway.work.people.directory import Directory
from gateway.work.tasks.chats import ChatService


def routes(chats: ChatService, directory: Directory, callers: Callers) -> Blueprint:
    blueprint = Blueprint("chats", __name__)

    @blueprint.get("/api/workspaces/<workspace>/chats")
    @takes(**PAGED)
    async def list_chats(workspace: str) -> Response:
        user = await callers.user()
        page = read_page()
        member = await directory.membership(workspace, user.user_id)
        found, total = await chats.list(member.workspace_id, user.user_id, limit=page.limit, offset=page.offset)
        return listing("chats", [asdict(chat) for chat in found], page, total)

    @blueprint.get("/api/chats/<id>")
    async def get_chat(id: str) -> Response:
        user = await callers.user()
        return json_response(asdict(await chats.find(parse_id(id, field="chat_id"), user.user_id)))

    @blueprint.get("/api/chats/<id>/messages")
    @takes(**PAGED)
    async def list_messages(id: str) -> Response:
        """List messages, the oldest first, so that a page reads from top to bottom.

        The latest ones are at `offset = total - limit`.
        """
        user = await callers.user()
        page = read_page()
        chat_id = parse_id(id, field="chat_id")
        found, total = await chats.messages(chat_id, user.user_id, limit=page.limit, offset=page.offset)
        return listing("messages", [asdict(message) for message in found], page, total)

    @blueprint.delete("/api/chats/<id>")
    async def delete_chat(id: str) -> Response:
        user = await callers.user()
        await chats.delete(parse_id(id, field="chat_id"), user.user_id)
        return no_content()

    return blueprint
