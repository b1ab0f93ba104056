"""The official Python SDK's checker of events that arrive over HTTP, in a process of its own.

Usage: lark_oapi_dispatch.py, with {encrypt_key, token, letters: [{headers, body}]} as JSON on stdin. Prints a JSON line
per letter with the status and body that the SDK would answer, and the texts of the messages it accepted.
"""

from __future__ import annotations

import json
import sys

import lark_oapi as lark
from lark_oapi.api.im.v1 import P2ImMessageReceiveV1
from lark_oapi.core.model import RawRequest

if __name__ == "__main__":
    given = json.load(sys.stdin)
    accepted: list[str] = []

    def receive(data: P2ImMessageReceiveV1) -> None:
        accepted.append(json.loads(data.event.message.content)["text"])

    builder = lark.EventDispatcherHandler.builder(given["encrypt_key"], given["token"], lark.LogLevel.CRITICAL)
    handler = builder.register_p2_im_message_receive_v1(receive).build()
    for letter in given["letters"]:
        request = RawRequest()
        request.uri, request.headers, request.body = "/events", letter["headers"], letter["body"].encode()
        answer = handler.do(request)
        line = {"status": answer.status_code, "body": answer.content.decode(), "accepted": accepted}
        print(json.dumps(line), flush=True)
