"""The decisions about a failed run, without I/O: try again or give up, and the text that the person gets."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.work.tasks.diagnosis import UNKNOWN_REASON, diagnose

RUNTIME_OFFLINE = "runtime_offline"
RUNTIME_RECOVERY = "runtime_recovery"
TIMEOUT = "timeout"

PLATFORM_REASONS = frozenset({
    "queued_expired",
    RUNTIME_OFFLINE,
    "runtime_reconnect_timeout",
    RUNTIME_RECOVERY,
    TIMEOUT,
    "iteration_limit",
    "agent_blocked",
    "api_invalid_request",
    "skill_bundle_unavailable",
    "runtime_cli_timeout",
    "invalid_task_identity",
    "issue_window_restricted",
})  # fmt: skip
AGENT_REASONS = frozenset(
    f"agent_error.{name}"
    for name in (
        "context_overflow",
        "missing_config",
        "provider_auth_or_access",
        "provider_quota_limit",
        "provider_capacity_or_rate_limit",
        "provider_server_error",
        "provider_network",
        "model_not_found_or_unavailable",
        "empty_or_unparseable_output",
        "agent_timeout",
        "runtime_missing_executable",
        "runtime_version_unsupported",
        "process_failure",
        "unknown",
    )
)

RETRY_DELAY_SECONDS = {
    RUNTIME_OFFLINE: 0.0,
    RUNTIME_RECOVERY: 0.0,
    TIMEOUT: 0.0,
    "skill_bundle_unavailable": 5.0,
    "agent_error.provider_network": 5.0,
}
"""The reasons for which another attempt may help, and the delay before the last attempt.

After any other reason the run would only fail again.
"""


@dataclass(frozen=True, slots=True)
class Retry:
    """The run goes back to the queue, claimable after `delay_seconds`."""

    delay_seconds: float


def reason_of(given: str | None, error: str) -> str:
    """Return the reason of a failure: the runtime's own, if it is of the closed vocabulary and is not "unknown".

    Otherwise the reason is derived from the error. It becomes a metric label and is shown, so it is never free text.
    """
    if given is not None and given != UNKNOWN_REASON and (given in PLATFORM_REASONS or given in AGENT_REASONS):
        return given
    return diagnose(error)


def judge_failure(reason: str, *, kind: str, attempt: int, max_attempts: int) -> Retry | None:
    """Decide if a failed run is tried again. None means that the failure is final.

    An autopilot's run is never tried again here, because its next run comes anyway. A passing problem has often passed
    at once, so only the last attempt is delayed.
    """
    delay = RETRY_DELAY_SECONDS.get(reason)
    if delay is None or kind == "autopilot" or attempt >= max_attempts:
        return None
    return Retry(delay if attempt + 1 == max_attempts else 0.0)


_SORRY = {
    "en": "Sorry, I could not answer this: {cause}. Please send it again.",
    "zh-Hans": "抱歉，未能完成回答：{cause}。请重新发送。",
}
_CAUSES = {
    "en": {
        TIMEOUT: "it took too long",
        RUNTIME_OFFLINE: "the computer I run on went offline",
        RUNTIME_RECOVERY: "the computer I run on was restarted",
        "": "the agent failed",
    },
    "zh-Hans": {
        TIMEOUT: "处理超时",
        RUNTIME_OFFLINE: "运行环境已离线",
        RUNTIME_RECOVERY: "运行环境已重启",
        "": "智能体运行失败",
    },
}


def apology(reason: str, language: str) -> str:
    """Return the message to the chat after a final failure. It contains nothing of the agent's own output."""
    language = language if language in _SORRY else "en"
    causes = _CAUSES[language]
    return _SORRY[language].format(cause=causes.get(reason, causes[""]))


_RUN_FAILED = {
    "en": "The run ended without a result: {cause}.",
    "zh-Hans": "运行未产生结果：{cause}。",
}
_RUN_CAUSES = {
    "en": _CAUSES["en"]
    | {
        RUNTIME_OFFLINE: "the computer that ran the agent went offline",
        RUNTIME_RECOVERY: "the computer that ran the agent was restarted",
    },
    "zh-Hans": _CAUSES["zh-Hans"],
}


def failure_comment(reason: str, language: str) -> str:
    """Return the comment on the issue after the final failure of its run. It contains nothing of the agent's output."""
    language = language if language in _RUN_FAILED else "en"
    causes = _RUN_CAUSES[language]
    return _RUN_FAILED[language].format(cause=causes.get(reason, causes[""]))
