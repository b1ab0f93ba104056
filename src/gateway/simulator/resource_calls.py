"""The API calls about resources: downloading files of messages, and uploading files to send."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from gateway.simulator.exchange import Answer, Refusal, Request
from gateway.simulator.platform import App
from gateway.simulator.resources import Attachment, keys_in
from gateway.simulator.world import AppCall, World, ok

DOWNLOAD_BYTES_MAX = 100 * 1024 * 1024
IMAGE_BYTES_MAX = 10 * 1024 * 1024
FILE_BYTES_MAX = 30 * 1024 * 1024
FILE_TYPES = frozenset({"opus", "mp4", "pdf", "doc", "xls", "ppt", "stream"})
BUNDLE = "merge_forward"
"""A message that hands out the files of the messages it bundles, at any depth. Those do not hand them out."""
WITHOUT_RESOURCES = frozenset({"sticker", "merge_forward", "interactive"})

BAD_PARAMETER = 234001
NOT_IN_MESSAGE = 234003
BOT_NOT_IN_CHAT = 234004
UPLOAD_TOO_LARGE = 234006
UPLOAD_EMPTY = 234010
DOWNLOAD_TOO_LARGE = 234037
UNSUPPORTED_MESSAGE = 234043


def download(world: World, app: App, request: Request) -> Answer:
    """Return the bytes of a picture or file. Raises Refusal under HTTP 200, as the platform does for this call only."""
    try:
        attachment = _found(world, app, request)
    except Refusal as refusal:
        raise Refusal(refusal.code, refusal.msg, status=200) from refusal
    headers = (
        ("content-type", attachment.content_type),
        ("content-disposition", disposition(attachment.name or request.params["file_key"])),
    )
    length = attachment.length if attachment.says_length else None
    return Answer(200, headers=headers, stream=attachment.pieces, length=length)


def _found(world: World, app: App, request: Request) -> Attachment:
    message_id, asked_as, key = request.params["message_id"], request.argument("type"), request.params["file_key"]
    if world.messages.is_bundled(message_id):
        raise Refusal(UNSUPPORTED_MESSAGE, "Unsupported message type")
    message = world.messages.get(message_id)
    if app.app_id not in world.platform.chats[message.chat_id].app_ids:
        raise Refusal(BOT_NOT_IN_CHAT, "The app is not in the chat")
    bundled = list(world.messages.bundled(message_id)) if message.message_type == BUNDLE else [message]
    holders = [holder for holder in bundled if holder.message_type not in WITHOUT_RESOURCES]
    if not holders:
        raise Refusal(UNSUPPORTED_MESSAGE, "Unsupported message type")
    keys = [key for holder in holders for key in keys_in(holder.document)]
    if (asked_as, key) not in keys:
        # If the message holds the key under the other type, the platform blames the type and not the key.
        wrong_type = any(key == held for _, held in keys) or asked_as not in ("image", "file")
        raise Refusal(*((BAD_PARAMETER, "Invalid request param") if wrong_type else _NOT_IN_MESSAGE))
    try:
        attachment = world.resources.get(key)
    except LookupError as error:
        raise Refusal(*_NOT_IN_MESSAGE) from error
    if attachment.length > DOWNLOAD_BYTES_MAX and not attachment.any_size:
        raise Refusal(DOWNLOAD_TOO_LARGE, "Downloaded file size exceeds limit")
    return attachment


_NOT_IN_MESSAGE = (NOT_IN_MESSAGE, "File not in msg")


def disposition(name: str) -> str:
    """Return a Content-Disposition for any name: once in plain ASCII with `_` for the rest, once as encoded UTF-8."""
    plain = re.sub(r'[^\x20-\x7e]|["\\]', "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


# -- uploads


def upload_image(world: World, _app: App, request: Request) -> dict[str, Any]:
    fields = read_form(request)
    name, data = _uploaded(fields, "image", IMAGE_BYTES_MAX)
    if fields.get("image_type", ("", b""))[1] not in (b"message", b"avatar"):
        raise Refusal(BAD_PARAMETER, "Invalid request param: image_type")
    return ok({"image_key": world.resources.add(Attachment("image", name, data=data))})


def upload_file(world: World, _app: App, request: Request) -> dict[str, Any]:
    fields = read_form(request)
    name, data = _uploaded(fields, "file", FILE_BYTES_MAX)
    file_type = fields.get("file_type", ("", b""))[1].decode(errors="replace")
    if file_type not in FILE_TYPES:
        raise Refusal(BAD_PARAMETER, "Invalid request param: file_type")
    name = fields.get("file_name", ("", b""))[1].decode(errors="replace") or name
    kind = {"opus": "audio", "mp4": "media"}.get(file_type, "file")
    return ok({"file_key": world.resources.add(Attachment(kind, name, data=data))})


def _uploaded(fields: dict[str, tuple[str, bytes]], name: str, bytes_max: int) -> tuple[str, bytes]:
    file_name, data = fields.get(name, ("", b""))
    if not file_name:
        raise Refusal(BAD_PARAMETER, f"Invalid request param: {name} is missing, or has no filename")
    if not data:
        raise Refusal(UPLOAD_EMPTY, "File's size can't be 0.")
    if len(data) > bytes_max:
        raise Refusal(UPLOAD_TOO_LARGE, "The file size exceed the max value")
    return file_name, data


def read_form(request: Request) -> dict[str, tuple[str, bytes]]:
    """Return the parts of a multipart body by name: file name ("" if it has none) and bytes.

    Raises Refusal for a body that is not multipart.
    """
    boundary = re.search(r'boundary="?([^";]+)"?', request.headers.get("content-type", ""))
    if boundary is None:
        raise Refusal(BAD_PARAMETER, "Invalid request param: not multipart/form-data")
    fields: dict[str, tuple[str, bytes]] = {}
    for part in (b"\r\n" + request.body).split(b"\r\n--" + boundary[1].encode())[1:-1]:
        head, _, data = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        said = head.decode("utf-8", "replace")
        name = re.search(r'[ ;]name="([^"]*)"', said)
        file_name = re.search(r'filename="([^"]*)"', said)
        if name is not None:
            fields[name[1]] = (file_name[1] if file_name else "", data)
    return fields


CALLS: tuple[tuple[str, str, AppCall], ...] = (
    ("GET", "/open-apis/im/v1/messages/{message_id}/resources/{file_key}", download),
    ("POST", "/open-apis/im/v1/images", upload_image),
    ("POST", "/open-apis/im/v1/files", upload_file),
)
