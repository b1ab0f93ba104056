import pytest

from gateway.channel.message import ChatType, Source


@pytest.mark.parametrize(
    ("chat_type", "chat", "thread", "key"),
    [
        (ChatType.P2P, "oc_dm", "", "oc_dm"),
        (ChatType.P2P, "oc_dm", "omt_x", "oc_dm"),
        (ChatType.GROUP, "oc_g", "", "oc_g"),
        (ChatType.GROUP, "oc_g", "omt_1", "oc_g:omt_1"),
    ],
)
def test_session_key_is_the_chat_or_a_topic_of_a_group(chat_type: ChatType, chat: str, thread: str, key: str) -> None:
    source = Source(channel_type="feishu", chat_id=chat, chat_type=chat_type, sender_id="ou_a", thread_id=thread)
    assert source.session_key == key
