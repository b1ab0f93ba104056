"""Control calls to write and recall messages as people, and to read chats and attachments."""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from gateway.simulator.control.calls import LISTED_MAX, Body, Calls, member, read, receiver, seconds, unbase64
from gateway.simulator.control.events import shown_event
from gateway.simulator.delivery import PushPlan
from gateway.simulator.exchange import Answer, Request
from gateway.simulator.messages import Message, readable
from gateway.simulator.resource_calls import disposition
from gateway.simulator.resources import Attachment, keys_in
from gateway.simulator.simulator import Simulator, Utterance


class NewAttachment(Body):
    """The fields of an `Attachment`, with its bytes as `base64`."""

    kind: str
    name: str = ""
    mime_type: str = ""
    base64: str = ""
    size: int | None = None
    duration_ms: int = 0
    pause_seconds: float = 0.0
    piece_bytes: int = 64 * 1024
    says_length: bool = True
    breaks_after: int | None = None
    any_size: bool = False

    def made(self) -> Attachment:
        """Return the attachment. Raises ValueError."""
        members = msgspec.structs.asdict(self)
        return Attachment(data=unbase64(members.pop("base64")), **members)


class NewMessage(Body):
    """A message to write. `to` is an app (its direct chat) or a chat id.

    The call waits up to `wait_seconds` until every event is delivered or given up.
    """

    sender: str
    to: str
    text: str = ""
    message_type: str = "text"
    content: dict[str, Any] | str | None = None
    mentions: list[str] = msgspec.field(default_factory=list)
    attachments: list[NewAttachment] = msgspec.field(default_factory=list)
    forwards: list[str] = msgspec.field(default_factory=list)
    reply_to: str = ""
    in_thread: bool = False
    chunks: int = 1
    order: list[int] | None = None
    age_seconds: float = 0.0
    message_id: str = ""
    event_id: str = ""
    wait_seconds: float = 0.0


def calls(simulator: Simulator) -> Calls:
    conversations = Conversations(simulator)
    return [
        ("GET", "chats/{chat}/messages", conversations.list_messages),
        ("POST", "messages", conversations.say),
        ("DELETE", "messages/{message}", conversations.withdraw),
        ("GET", "resources/{key}", conversations.read_resource),
    ]


class Conversations:
    """Has one method for each call."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._platform = simulator.platform

    async def list_messages(self, request: Request) -> object:
        """List the messages of a chat; with `sender_type=app` only those of bots.

        With `wait_count` it waits up to `wait_seconds` until there are so many.
        """
        chat = self._platform.chat(request.params["chat"])
        sender_type = request.argument("sender_type")
        wanted = int(request.argument("wait_count", "0"))

        def look() -> list[Message] | None:
            found = self._simulator.messages.in_chat(chat.chat_id, sender_type, include_deleted=True)
            return found if len(found) >= wanted else None

        with trio.move_on_after(seconds(request.argument("wait_seconds", "0"))):
            await self._simulator.until(look)
        found = self._simulator.messages.in_chat(chat.chat_id, sender_type, include_deleted=True)
        return [self._message(message) for message in found[-LISTED_MAX:]]

    async def say(self, request: Request) -> object:
        new = read(request, NewMessage)
        said = self._simulator.say(
            self._platform.person(new.sender),
            receiver(self._platform, new.to),
            Utterance(
                new.text,
                new.message_type,
                new.content,
                mentions=[member(self._platform, handle) for handle in new.mentions],
                attachments=[attachment.made() for attachment in new.attachments],
                forwards=new.forwards,
                reply_to=new.reply_to,
                in_thread=new.in_thread,
                plan=PushPlan(new.chunks, None if new.order is None else tuple(new.order)),
                age_seconds=new.age_seconds,
                message_id=new.message_id,
                event_id=new.event_id,
            ),
        )
        with trio.move_on_after(seconds(new.wait_seconds)):
            for record in said.events:
                await record.settled()
        return self._message(said.message) | {"events": [shown_event(record) for record in said.events]}

    async def withdraw(self, request: Request) -> object:
        """Recall a message in the name of its sender."""
        return self._message(self._simulator.messages.withdraw(request.params["message"]))

    async def read_resource(self, request: Request) -> object:
        """Return the bytes of a picture or file, for people.

        Its headers keep the browser from treating it as a page of the simulator, whatever it holds.
        """
        attachment = self._simulator.resources.get(request.params["key"])
        headers = (
            ("content-type", attachment.content_type),
            ("content-disposition", disposition(attachment.name or request.params["key"])),
            ("content-security-policy", "sandbox; default-src 'none'"),
            ("x-content-type-options", "nosniff"),
        )
        return Answer(200, headers=headers, stream=attachment.pieces, length=attachment.length)

    def _message(self, message: Message) -> dict[str, Any]:
        sender = self._platform.apps.get(message.sender_id) or self._platform.people[message.sender_id]
        shown = {
            "message_id": message.message_id,
            "chat_id": message.chat_id,
            "sender_type": message.sender_type,
            "sender_id": message.sender_id,
            "sender_name": sender.name,
            "message_type": message.message_type,
            "text": readable(message),
            "content": message.content,
            "create_time": message.create_time,
            "parent_id": message.parent_id,
            "root_id": message.root_id,
            "thread_id": message.thread_id,
            "uuid": message.uuid,
            "calls": message.calls,
            "deleted": message.deleted,
            "updated": message.updated,
            "reactions": [emoji for _, emoji in message.reactions.values()],
            "resources": self._resources(message),
        }
        return shown | ({"text": "", "content": "", "resources": []} if message.deleted else {})

    def _resources(self, message: Message) -> list[dict[str, str]]:
        keys = [key for _, key in keys_in(message.document)]
        held = [(key, self._simulator.resources.get(key)) for key in keys if key in self._simulator.resources]
        return [{"key": key, "kind": one.kind, "name": one.name} for key, one in held]
