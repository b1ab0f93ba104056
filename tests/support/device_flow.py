"""The accounts side of a FakePlatform: apps that are registered by scanning a code, as far as a test says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from support.lark_rest import Answer, Call, FakePlatform, Reply

PATH = "/oauth/v1/app/registration"
APP_ID = "cli_abcdef0123456789"
APP_SECRET = "fake-granted-secret"
DEVICE_CODE = "fake-device-code"

PENDING = Reply({"error": "authorization_pending", "code": 20094}, status=400)
SLOW_DOWN = Reply({"error": "slow_down"}, status=400)
DENIED = Reply({"error": "access_denied"}, status=400)


def granted(open_id: str = "ou_eve", brand: str = "feishu", app_id: str = APP_ID) -> Reply:
    person = {"open_id": open_id, "tenant_brand": brand}
    return Reply({"client_id": app_id, "client_secret": APP_SECRET, "user_info": person})


def of_brand(brand: str) -> Reply:
    return Reply({"client_id": APP_ID, "client_secret": "", "user_info": {"tenant_brand": brand}})


@dataclass
class DeviceFlow:
    """Answers polls from `polls`, in order; then "pending" for ever: what was granted is not said again."""

    platform: FakePlatform
    polls: list[Reply | Answer] = field(default_factory=list)
    begin: dict[str, Any] = field(
        default_factory=lambda: {
            "device_code": DEVICE_CODE,
            "user_code": "AB-CD",
            "verification_uri_complete": "https://accounts.feishu.cn/verify?user_code=AB-CD",
            "interval": 0.05,
            "expires_in": 60,
        }
    )
    begun: int = 0
    polled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.platform.usual[PATH] = self._answer

    async def _answer(self, call: Call) -> Reply:
        form = {name: values[0] for name, values in parse_qs(call.body.decode()).items()}
        if form["action"] == "begin":
            self.begun += 1
            return Reply(self.begin)
        self.polled.append(form["device_code"])
        reply = self.polls.pop(0) if self.polls else PENDING
        return reply if isinstance(reply, Reply) else await reply(call)
