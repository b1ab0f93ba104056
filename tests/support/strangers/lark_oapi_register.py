"""An app registered through the official Python SDK, in a process of its own.

Usage: lark_oapi_register.py FEISHU_URL LARK_URL. Prints a JSON line with the address of the code, one per change of
status, and one with the outcome; the secret itself is not printed, only whether there is one.
"""

from __future__ import annotations

import json
import sys

from lark_oapi.scene.registration import register_app


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    found = register_app(
        on_qr_code=lambda code: say(event="code", **code),
        on_status_change=lambda change: say(event="status", **change),
        domain=sys.argv[1],
        lark_domain=sys.argv[2],
        app_preset={"name": "Helper of {user}", "desc": "helps"},
        addons={"scopes": {"tenant": ["im:message"]}},
    )
    say(
        event="registered",
        client_id=found["client_id"],
        has_secret=bool(found["client_secret"]),
        user=found["user_info"],
    )
