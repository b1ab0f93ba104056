"""The question that asks a person to bind their account: its text, and the link with its single-use token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import urlencode
from uuid import UUID

from gateway.core.replies import Button, Composed
from gateway.ids import new_link_token, token_hash

BIND_PATH = "/lark/bind"
LINK_MINUTES = 15
"""The time for which a link is valid. The table allows no more."""

_LINK = {
    "en": "To talk to me, link this account to yours first. "
    "Open this link within {minutes} minutes, sign in and confirm; it works once. "
    "Do not pass it on: it is for your own account.\n{link}",
    "zh-Hans": "请先将此账号与您的账号绑定，之后才能与我对话。"
    "请在 {minutes} 分钟内打开以下链接，登录并确认，链接仅可使用一次。"
    "请勿转发，此链接仅供您本人的账号使用：\n{link}",
}
_LABEL = {"en": "Link my account", "zh-Hans": "去绑定"}
_ASK_OPERATOR = {
    "en": "To talk to me, this account must be linked first. Please send this line to an operator, who fills in your "
    "e-mail address and runs it:\n{command}",
    "zh-Hans": "此账号需先完成绑定才能与我对话。请将以下命令发送给管理员，由其填入您的邮箱地址后执行：\n{command}",
}


class PromptStore(Protocol):
    async def mint(self, hashed: str | None, installation_id: UUID, channel_user_id: str) -> str | None:
        """Commit a token's hash, valid for LINK_MINUTES by the database clock. Return the language to ask in.

        None when the account is bound already or its bot is out of service. No token is stored then. Without `hashed`
        no token is stored either. Raises StoreUnavailable.
        """


class BindingPrompts:
    """Composes the question at the moment it is sent, because only then may its link exist in the clear."""

    def __init__(
        self, store: PromptStore, *, public_url: str | None, mint_token: Callable[[], str] = new_link_token
    ) -> None:
        """Without `public_url` there is no page to link to. The question then refers the person to an operator."""
        self._store = store
        self._public_url = public_url
        self._mint_token = mint_token

    async def compose(self, installation_id: UUID, channel_user_id: str) -> Composed | None:
        """Compose the question for one account, with a new token. None when the question is no longer needed.

        Every call makes another token. Earlier tokens stay valid until they expire, because a message with one may have
        arrived although its sending seemed to fail.
        """
        if self._public_url is None:
            language = await self._store.mint(None, installation_id, channel_user_id)
            command = f"gateway lark bind {installation_id} {channel_user_id} EMAIL"
            return None if language is None else Composed(_in(language, _ASK_OPERATOR).format(command=command))
        token = self._mint_token()
        language = await self._store.mint(token_hash(token), installation_id, channel_user_id)
        if language is None:
            return None
        link = bind_link(self._public_url, token)
        text = _in(language, _LINK).format(minutes=LINK_MINUTES, link=link)
        return Composed(text, Button(_in(language, _LABEL), link))


def bind_link(public_url: str, token: str) -> str:
    """Return the address of the page on which a person redeems `token`."""
    return f"{public_url.rstrip('/')}{BIND_PATH}?{urlencode({'token': token})}"


def _in(language: str, texts: Mapping[str, str]) -> str:
    return texts.get(language, texts["en"])
