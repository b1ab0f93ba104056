"""Finds out from the messages of a chat whether a message in doubt reached it.

The platform does not list idempotency keys, so a message is recognised by its sender, its time and its words. Some
messages are listed differently from how they were sent: a card may have other words or none, a mention becomes a name,
and a recalled message has no content. Such a message is taken for the one in doubt unless it is another known message
of the bot. A message too few is better than the same message twice.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from gateway.channel.errors import PlatformRefused, PlatformUnavailable
from gateway.channel.message import OutboundMessage
from gateway.core.enrichment import AuthorKind, Said
from gateway.lark.api.client import LarkClient
from gateway.lark.chat.cards import Rendered
from gateway.lark.chat.items import read_items
from gateway.lark.chat.kinds import CARD

WINDOW = timedelta(minutes=70)
"""The longest time from the first attempt to send a message to the last one."""
CLOCKS_APART = timedelta(seconds=60)
PAGES_MAX = 20


async def find_sent(
    client: LarkClient, message: OutboundMessage, rendered: Rendered, *, since: datetime, known: Collection[str]
) -> str | None:
    """See ReadBack.find_sent. A reply is looked for in its topic, and in the chat to which it may have gone instead.

    `rendered` is the form in which the message was sent; a card may have gone as text instead. Raises PlatformRefused
    also for a chat with more messages in the window than can be read, PlatformUnavailable for a broken answer.
    """
    if not message.chat_id:
        raise PlatformRefused("a person's direct chat is known by its own id only")
    containers = (message.thread_id, "") if message.thread_id else ("",)
    listed = [await _said_by_us(client, message.chat_id, thread_id, since) for thread_id in containers]
    unexplained = [said for said_by_us in listed for said in said_by_us if said.message_id not in known]
    # The surest test first: an exact match, then a listing that may differ, then a recalled message.
    for is_it in (_says_it, _may_say_it, _is_gone):
        found = [said.message_id for said in unexplained if is_it(said, message, rendered)]
        if found:
            return found[-1]
    return None


async def _said_by_us(client: LarkClient, chat_id: str, thread_id: str, since: datetime) -> list[Said]:
    """Return the bot's own messages in the window, newest first."""
    first, last = since - CLOCKS_APART, since + WINDOW
    said_by_us: list[Said] = []
    token = ""
    for _ in range(PAGES_MAX):
        page = await client.list_messages(
            chat_id=chat_id,
            thread_id=thread_id,
            start=int(first.timestamp()),
            end=int(last.timestamp()),
            page_token=token,
        )
        if not page.complete:
            raise PlatformUnavailable("the platform answered with a page that does not say whether another follows")
        listed = [said for said in read_items(page.items, app_id=client.app_id) if said.sent_at is not None]
        said_by_us += [said for said in listed if _is_ours(said, first, last)]
        token = page.next_token
        if not token or any(said.sent_at < first for said in listed if said.sent_at is not None):
            return said_by_us
    raise PlatformRefused(f"more was said in the chat than {PAGES_MAX} pages hold")


def _is_ours(said: Said, first: datetime, last: datetime) -> bool:
    return said.author.kind is AuthorKind.ASSISTANT and said.sent_at is not None and first <= said.sent_at <= last


def _says_it(said: Said, message: OutboundMessage, rendered: Rendered) -> bool:
    """True if the words are those of the message, as it was rendered or as plain text."""
    if said.gone:
        return False
    item = {"message_id": "ours", "msg_type": rendered.type, "body": {"content": rendered.content}}
    ours = {_flat(message.text), *(_flat(read.text) for read in read_items([item], app_id=""))}
    return _flat(said.text) in ours


def _may_say_it(said: Said, message: OutboundMessage, rendered: Rendered) -> bool:
    """True if the listed words cannot rule it out: cards and mentions are not listed as they were sent."""
    if said.gone:
        return False
    return said.type == CARD if rendered.type == CARD else said.type == rendered.type and "<at " in message.text


def _is_gone(said: Said, _message: OutboundMessage, _rendered: Rendered) -> bool:
    return said.gone


def _flat(text: str) -> str:
    return "".join(text.split())
