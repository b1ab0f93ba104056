"""The gateway's own messages in a chat, in the workspace's language.

People's words may be part of them only by way of `quoted`, which keeps them short, without links and without mentions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote

from gateway.core.markdown import shortened, without_links, without_mentions

QUOTE_CHARS_MAX = 200
DEFAULT_LANGUAGE = "en"


@dataclass(frozen=True, slots=True)
class Button:
    """A link with a label. Its address may hold a secret, so the repr leaves it out."""

    label: str
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Composed:
    """The words of a message, made at the moment of sending. `button` is the link that they end with, if any.

    `title` is a heading that only platforms with cards show.
    """

    text: str = field(repr=False)
    button: Button | None = None
    title: str = ""


class Reply(StrEnum):
    """The kinds of messages. `ISSUE_*` take `issue` and `title`, `STALE` takes `minutes` and `command`."""

    ISSUE_CREATED = "issue_created"
    ISSUE_DUPLICATE = "issue_duplicate"
    ISSUE_USAGE = "issue_usage"
    FRESH_PENDING = "fresh_pending"
    STALE = "stale"
    NOTHING_TO_CONFIRM = "nothing_to_confirm"
    AGENT_OFFLINE = "agent_offline"
    AGENT_ARCHIVED = "agent_archived"
    RUN_OFFLINE = "run_offline"
    RUN_ARCHIVED = "run_archived"
    NO_ANSWER = "no_answer"
    ANSWER_UNDELIVERED = "answer_undelivered"


WORDS = {
    "en": {
        Reply.ISSUE_CREATED: "Created {issue}: {title}",
        Reply.ISSUE_DUPLICATE: "{issue} has this title already and is still open: {title}",
        Reply.ISSUE_USAGE: (
            "An issue needs a title: /issue Fix the login page. The lines below it become the description. "
            "A bare /issue takes the message that it replies to, or your previous one, and I found none."
        ),
        Reply.FRESH_PENDING: "A fresh start: I leave aside what was said so far. What is it about?",
        Reply.STALE: (
            "This took {minutes} min to reach me, so I did not run it: {command}\n"
            "Send /confirm within an hour to run it now; anything else drops it."
        ),
        Reply.NOTHING_TO_CONFIRM: "There is nothing to confirm.",
        Reply.AGENT_OFFLINE: "I kept your message, but no computer runs me at the moment. I will answer when one does.",
        Reply.AGENT_ARCHIVED: "I was archived and take no more work. A workspace administrator can change that.",
        Reply.RUN_OFFLINE: "No computer runs me at the moment; I start on it once one does again.",
        Reply.RUN_ARCHIVED: "I was archived, so nobody works on it until an administrator changes that.",
        Reply.NO_ANSWER: "I finished without an answer. Please ask me again if you expected one.",
        Reply.ANSWER_UNDELIVERED: (
            "My answer, or a part of it, could not be delivered here. Please ask me again, perhaps for a shorter one."
        ),
    },
    "zh-Hans": {
        Reply.ISSUE_CREATED: "已创建 {issue}：{title}",
        Reply.ISSUE_DUPLICATE: "已有同名且未关闭的 {issue}：{title}",
        Reply.ISSUE_USAGE: (
            "请提供标题，例如：/issue 修复登录页。后面的各行会作为描述。"
            "只发送 /issue 时会用所回复的消息或你的上一条消息作标题，但没有找到可用的消息。"
        ),
        Reply.FRESH_PENDING: "已重新开始，之前的对话不再计入。请说说新的内容。",
        Reply.STALE: (
            "这条命令晚了 {minutes} 分钟才送达，因此没有执行：{command}\n"
            "一小时内发送 /confirm 即可执行，发送其他内容则放弃。"
        ),
        Reply.NOTHING_TO_CONFIRM: "没有待确认的命令。",
        Reply.AGENT_OFFLINE: "消息已保存，但目前没有可用的运行环境；恢复后我会回复。",
        Reply.AGENT_ARCHIVED: "我已被归档，不再接受任务。如需恢复，请联系工作区管理员。",
        Reply.RUN_OFFLINE: "目前没有可用的运行环境；恢复后我会开始处理。",
        Reply.RUN_ARCHIVED: "我已被归档，管理员恢复之前不会处理。",
        Reply.NO_ANSWER: "我已处理完毕，但没有可回复的内容。如果需要答复，请再问一次。",
        Reply.ANSWER_UNDELIVERED: "我的回答（或其中一部分）无法发送到这里。请再问一次，或让我回答得简短一些。",
    },
}


def say(reply: Reply, language: str, **values: object) -> str:
    """Return the text of a reply with its values filled in. Falls back to English for an unsupported language."""
    return WORDS.get(language, WORDS[DEFAULT_LANGUAGE])[reply].format(**values)


def in_every_language(reply: Reply) -> dict[str, str]:
    """Return the text in each language, because the store picks the language when it writes the row."""
    return {language: words[reply] for language, words in WORDS.items()}


def quoted(text: str) -> str:
    """Return a person's words in a form that is safe to repeat: short, without links and without mentions."""
    return without_mentions(without_links(shortened(text, chars_max=QUOTE_CHARS_MAX)))


def identifier(prefix: str | None, number: int) -> str:
    """Return the identifier that people use for an issue: prefix and number, or `#number` without a prefix."""
    return f"{prefix}-{number}" if prefix else f"#{number}"


def issue_link(public_url: str | None, issue: str) -> str:
    """Return the URL of the issue's page; "" without a public URL, and for a bare `#number`, which has no page."""
    if not public_url or issue.startswith("#"):
        return ""
    return f"{public_url.rstrip('/')}/issues/{quote(issue, safe='')}"
