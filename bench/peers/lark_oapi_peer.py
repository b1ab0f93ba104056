"""A bot written with the official Python SDK, as its documentation shows: the handler does the writes, then returns.

usage: lark_oapi_peer.py BASE_URL APP_ID APP_SECRET CONNINFO INSTALLATION_ID
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lark_oapi as lark
import psycopg

BASE_URL, APP_ID, APP_SECRET, CONNINFO, INSTALLATION = sys.argv[1:6]
TEXT = Path(__file__).with_name("writes.sql").read_text(encoding="utf-8")
STATEMENTS = [statement.strip() for statement in TEXT.split(";") if statement.strip()]
CLAIM, LOOK_UP, APPEND, TARGET, ENQUEUE, MARK = STATEMENTS
database = psycopg.connect(CONNINFO, autocommit=True, prepare_threshold=0)


def on_message(data: lark.im.v1.P2ImMessageReceiveV1) -> None:
    message = data.event.message
    values = {
        "installation": INSTALLATION,
        "message": message.message_id,
        "sender": data.event.sender.sender_id.open_id,
        "chat": message.chat_id,
        "text": json.loads(message.content)["text"],
    }
    with database.transaction(), database.cursor() as cursor:
        if cursor.execute(CLAIM, values).fetchone() is None:
            return
        row = cursor.execute(LOOK_UP, values).fetchone()
        assert row is not None
        values |= dict(zip(("user", "session", "workspace", "agent"), row, strict=True))
        for statement in (APPEND, TARGET, ENQUEUE, MARK):
            cursor.execute(statement, values)


handler = lark.EventDispatcherHandler.builder("", "").register_p2_im_message_receive_v1(on_message).build()
lark.ws.Client(APP_ID, APP_SECRET, event_handler=handler, domain=BASE_URL, log_level=lark.LogLevel.WARNING).start()
