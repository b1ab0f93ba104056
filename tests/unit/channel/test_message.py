import pytest

from gateway.channel.message import ChatType, InboundMessage, MessageType, OutboundMessage, Source


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


def test_repr_of_a_message_holds_none_of_its_words() -> None:
    source = Source(channel_type="feishu", chat_id="oc_1", chat_type=ChatType.P2P, sender_id="ou_a")
    inbound = InboundMessage(
        app_id="cli_a",
        event_id="ev_1",
        message_id="om_1",
        source=source,
        type=MessageType.TEXT,
        text="fake words",
        command_text="fake words",
        raw={"content": "fake words"},
    )
    outbound = OutboundMessage(text="fake words", idempotency_key="u-1", chat_id="oc_1")
    assert "fake words" not in repr(inbound) + repr(outbound)
    assert "om_1" in repr(inbound)
