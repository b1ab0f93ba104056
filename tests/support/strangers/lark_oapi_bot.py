"""A bot on the official Python SDK, in a process of its own.

Usage: lark_oapi_bot.py DOMAIN APP_ID, the app secret in LARK_APP_SECRET. Prints a JSON line per message received.
A text that begins with "fail once" makes the handler raise the first time; "echo X" is answered through the SDK's own
REST client.
"""

from __future__ import annotations

import json
import os
import sys

import lark_oapi as lark
from lark_oapi.api.im.v1 import CreateMessageRequest, CreateMessageRequestBody, P2ImMessageReceiveV1


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


class SdkBot:
    def __init__(self, domain: str, app_id: str, secret: str) -> None:
        self._seen: set[str] = set()
        self._rest = lark.Client.builder().app_id(app_id).app_secret(secret).domain(domain).build()
        handler = lark.EventDispatcherHandler.builder("", "").register_p2_im_message_receive_v1(self.receive).build()
        self._socket = lark.ws.Client(
            app_id, secret, event_handler=handler, domain=domain, log_level=lark.LogLevel.CRITICAL
        )

    def run(self) -> None:
        say(event="starting")
        self._socket.start()

    def receive(self, data: P2ImMessageReceiveV1) -> None:
        message = data.event.message
        text = json.loads(message.content)["text"]
        first_time = message.message_id not in self._seen
        self._seen.add(message.message_id)
        say(
            event="message",
            text=text,
            event_id=data.header.event_id,
            message_id=message.message_id,
            sender=data.event.sender.sender_id.open_id,
            mentions=[mention.name for mention in message.mentions or []],
            ping_interval=self._socket._ping_interval,
        )
        if text.startswith("fail once") and first_time:
            raise RuntimeError("asked to fail")
        if text.startswith("echo "):
            self._answer(message.chat_id, message.message_id, text.removeprefix("echo "))

    def _answer(self, chat_id: str, uuid: str, text: str) -> None:
        body = CreateMessageRequestBody.builder().receive_id(chat_id).msg_type("text").uuid(uuid)
        body = body.content(json.dumps({"text": text})).build()
        request = CreateMessageRequest.builder().receive_id_type("chat_id").request_body(body).build()
        answer = self._rest.im.v1.message.create(request)
        say(event="answered", code=answer.code, msg=answer.msg, message_id=answer.data and answer.data.message_id)


if __name__ == "__main__":
    SdkBot(sys.argv[1], sys.argv[2], os.environ["LARK_APP_SECRET"]).run()
