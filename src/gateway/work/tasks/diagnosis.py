"""Derives the reason of a failed run from the last output of the agent's program, usually the end of stderr.

The text may be anything that programs print, so a rule looks for words that only one kind of failure uses. The rules
are tried in the order of `RULES`, and the first that matches wins. A provider's answer says more than the exit status
that it led to, so the provider's rules come first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNKNOWN_REASON = "agent_error.unknown"
DIAGNOSIS_CHARS_MAX = 8_000
"""Only the end of a text is read, because the failure is described there."""

_QUOTES = re.compile("[\"'`\\\\\u2018\u2019\u201c\u201d]+")
_GAPS = re.compile(r"[\s_-]+")


@dataclass(frozen=True, slots=True)
class Rule:
    """A reason (without its prefix), with the words and the HTTP statuses that point to it.

    Words are searched in a normalised text: lower case, without quotes, and with each run of spaces, underscores and
    hyphens turned into one space. So `context_length_exceeded` becomes `context length exceeded`, and `couldn't`
    becomes `couldnt`.
    """

    reason: str
    words: re.Pattern[str]
    status: re.Pattern[str] | None = None


def diagnose(error: str) -> str:
    """Return the failure reason that `error` points to, or the unknown reason if no rule matches."""
    text = error[-DIAGNOSIS_CHARS_MAX:].lower()
    plain = _GAPS.sub(" ", _QUOTES.sub("", text)).strip()
    for rule in RULES:
        if rule.words.search(plain) or (rule.status is not None and rule.status.search(text)):
            return f"agent_error.{rule.reason}"
    return UNKNOWN_REASON


_OTHER_NUMBERS = ("line ", "lines ", "column ", "port ", "pid ", "exit status ", "exit code ", "exited with ")
_PLACES = (r"\d:", r"\.go:", r"\.py:", r"\.rs:", r"\.[jt]s:")
_AMOUNTS = "ms|milliseconds?|s|sec|seconds?|minutes?|tokens?|characters|chars|[km]?b|bytes|times|files|lines|items|%"


def _status_of(codes: str) -> re.Pattern[str]:
    """Return a pattern for one of these HTTP statuses, standing as a number of its own.

    It excludes a part of a longer number, an identifier, a path or a decimal. It excludes the number of a line, a port,
    a process or an exit status. It excludes an amount of something.
    """
    before = "".join(f"(?<!{other})" for other in (*_OTHER_NUMBERS, *_PLACES))
    return re.compile(
        rf"{before}(?:(?<![\w.\-/])|(?<=http)|(?<=http[_-]))(?:{codes})(?!\w|[.,]\d|\s*(?:{_AMOUNTS})(?!\w))"
    )


# A pattern may start to match at every character of a text. Unbounded repetitions could read on to the end of the text
# from each start, which takes quadratic time. So every repetition gets an upper bound.
_BOUNDS = {r"\S+": r"\S{1,200}", r"\w+": r"\w{1,40}", r"\w*": r"\w{0,40}", r"\d+": r"\d{1,9}"}


def _rule(reason: str, *words: str, status: str = "") -> Rule:
    bounded = "|".join(words)
    for unbounded, bound in _BOUNDS.items():
        bounded = bounded.replace(unbounded, bound)
    return Rule(reason, re.compile(bounded), _status_of(status) if status else None)


_BE = r"(?:is |are |was |were |has |have |been |be )*"
_ADJECTIVES = r"(?:\S+ ){0,3}?"
_CANNOT = r"(?:can ?not|cant|could not|couldnt|unable to|fail(?:s|ed|ure)?(?: to)?|errors?(?: while| when)?)"
_CREDENTIAL = r"(?:api ?keys?|auth tokens?|access tokens?|credentials?)"
_SETTING = rf"(?:{_CREDENTIAL}|env(?:ironment)? var(?:iable)?s?|base ur[li]|config(?:uration)?(?: files?| values?)?)\b"
_ABSENT = r"(?:required|missing|unset|undefined|empty|not (?:set|found|provided|configured|defined|specified|given))\b"
_MODEL = r"(?:models?|deployment)\b"
_ANSWER = r"(?:output|response|reply|result|json|answer|completion|message content)s?\b"

RULES = (
    _rule(
        "context_overflow",
        r"context (?:length|window|limit|size|overflow)|max(?:imum)? context\b|exceeds? (?:the )?context\b",
        rf"(?:prompt|input|conversation) {_BE}too (?:long|large)|input (?:length|tokens?|token count)\b.{{0,60}}exceed",
        r"exceed\w* (?:the )?(?:max(?:imum)?|model|input|token)[\w ]{0,24}(?:tokens?|length|limit)\b(?! of \d+ req)",
        r"(?:maximum|max|too many) (?:number of )?(?:input |prompt )?tokens? (?:exceeded|allowed|in)\b",
        r"token (?:limit|count) (?:was )?exceed|exceeds? .{0,20}token limit|reduce the length of (?:the |your )?\w+",
        r"context ?window ?exceeded|max model len\b|range of input length|too many tokens: .{0,60}limit",
        r"request too large(?! for )|request exceeds the maximum size",
        status="413",
    ),
    _rule(
        "missing_config",
        rf"{_SETTING}(?: \S+){{0,3}}? (?:{_BE}|must be ){_ABSENT}|{_SETTING}(?: \S+){{0,3}}? must be set\b",
        rf"(?:missing|no|without|provide|set|specify|configure|requires?) (?:an? |the |your |any |required |valid )*"
        rf"(?:\w+ )?{_SETTING}(?! (?:was |is )?(?:invalid|expired))(?! found)(?! \w+ expired)",
        r"\w (?:api key|auth token|token|secret|base url) (?:environment variable )?" + rf"{_BE}{_ABSENT}",
        rf"(?:invalid|bad|malformed) config|{_CANNOT} (?:load|loading|read|reading|parse|parsing|find) (?:\S+ )?config",
        r"no (?:api ?key|credentials|config(?:uration)?) found|(?:locate|load) (?:\S+ )?credentials|unknown provider",
        r"could not resolve authentication method|keyerror: \S+ ?\w* (?:key|token)",
        rf"(?:no|missing) (?:llm |model |default |ai )*provider\b(?! error)|provider {_BE}{_ABSENT}",
        rf"no (?:default )?model {_BE}(?:set|configured|selected|specified|provided)|model {_BE}not (?:set|configured)",
        r"missing (?:required )?(?:config|setting|environment)|not (?:been |yet )?configured\b|configuration error",
    ),
    _rule(
        "provider_quota_limit",
        r"payment ?required|insufficient (?:quota|credit|balance|funds)|(?:out of|no|not enough) (?:\w+ )?credits?\b",
        r"(?<!disk )quota\b.{0,40}(?:exceed|exhaust|reach|limit|used up)",
        r"(?:exceed|exhaust|reach|hit|over|out of)\w*(?: \w+){0,3}(?<! disk) quota|credit balance|billing",
        r"(?:usage|spend(?:ing)?|budget|subscription|plan|hourly|daily|weekly|monthly|\d+ hour|opus|sonnet) limit",
        r"(?:hit|reached) your (?:\w+ )?limit|limit (?:reached|hit).{0,40}resets?|limit will reset",
        r"balance (?:\w+ ){0,2}?(?:insufficient|too low|exhausted|empty|used up)|\b(?:top up|recharge)\b|arrearage",
        r"credits? (?:\w+ ){0,2}?(?:depleted|used up|exhausted)|overdue payment|余额不足|欠费|额度(?:不足|已用)",
        status="402",
    ),
    _rule(
        "provider_auth_or_access",
        r"unauthori[sz]ed|unauthenticated|not (?:authenticated|authori[sz]ed)|auth(?:entication|orization)? ?error",
        r"auth(?:entication|orization)? (?:has )?(?:failed|failure|expired|required)|failed to authenticate",
        r"not (?:logged|signed) in|/login\b|(?:log|sign) ?in (?:again|required|to continue|first)|login required",
        r"(?:please|must|need to) (?:re ?)?(?:log|sign) ?in|(?:codex|claude|gemini|gcloud|opencode) (?:auth )?login\b",
        rf"(?:invalid|incorrect|wrong|expired|revoked|bad|disabled) (?:\w+ ){{0,2}}?(?:{_CREDENTIAL}|bearer|grant\b)",
        rf"{_CREDENTIAL}\b.{{0,40}}(?:invalid|not valid|expired|revoked|rejected|disabled|deactivated|incorrect)",
        r"(?:oauth|session|bearer|id|security|refresh) ?tokens? .{0,20}(?:invalid|expired|revoked|reused|rejected)",
        r"token (?:has |is |was )?(?:been )?(?:expired|revoked|invalidated)|expired ?token|session (?:has )?expired",
        r"no auth credentials",
        r"permission ?(?:error: 403|denied(?:error|: 403| on resource))|permission error\b|access ?denied|forbidden",
        r"(?<!or you )(?:do|does)(?: not|nt) have (?:access|permission)|insufficient (?:permission|scope|privilege)",
        r"(?:organization|account|workspace) .{0,20}(?:disabled|suspended|deactivated|banned|blocked)",
        r"unsupported country|country, region|not available in your (?:country|region)|unrecognizedclient",
        status="401|403",
    ),
    _rule(
        "provider_capacity_or_rate_limit",
        r"rate ?limit|too ?many ?(?:concurrent )?requests|too many tokens|throttl|slow ?down",
        r"overloaded|(?:over|at|exceeded|insufficient|no|out of) (?:\w+ )?capacity",
        r"capacity (?:exceeded|constraint|limit)",
        r"resource ?(?:has been )?exhausted|concurrency limit|(?:high|heavy|increased) (?:demand|load|traffic)",
        r"(?:server|service|model|engine)s? (?:is|are) (?:currently |too )*busy",
        r"(?:requests|tokens) per (?:min|day|hour|sec)|\b(?:rpm|tpm|qps)\b",
        status="429|529",
    ),
    _rule(
        "provider_server_error",
        r"internal ?server ?error|bad ?gateway|gateway ?time ?d? ?out|service ?(?:is |currently )*unavailable",
        r"(?:^|[^\w])server error\b|server had an error|internal error (?:encountered|has occurred)|api error,message",
        r"(?<!resource )temporarily unavailable|upstream (?:connect )?error|no healthy upstream",
        status="500|502|503|504|52[0-4]",
    ),
    _rule(
        "provider_network",
        r"stream (?:disconnected|closed|ended|error|was reset|interrupted|idle)|disconnected before completion",
        r"connection (?:to \S+ )?(?:was |has been |is )?(?:forcibly )?"
        r"(?:reset|refused|closed|aborted|error|lost|failed|timed? ?out|terminated|dropped|interrupted|broken)",
        r"\b(?:econn(?:reset|refused|aborted)|e?socket ?timed ?out|etimedout|esockettimedout|enotfound|eai again)\b",
        r"\b(?:ehostunreach|enetunreach|enetdown|und err)\b|socket (?:hang up|closed|timeout|error)",
        r"websocket.{0,30}clos",
        r"fetch failed|failed to fetch|premature close|net::err|fetcherror",
        r"\bnetwork ?(?:error|failure|timeout|changed)",
        r"network (?:connection |request )?(?:is )?(?:unreachable|down|failed|lost|error)",
        r"proxy (?:error|connect|failed)",
        r"(?:dns|name) (?:lookup|resolution|error|failure|server)|no such host|no route to host",
        r"host is (?:down|unreach)",
        rf"{_CANNOT} (?:connect|resolve host|reach)\b|getaddrinfo|name or service not known|nodename nor servname",
        r"i/o timeout|\btls: |tls handshake|\bssl(?: |:|error|cert)|x509|self signed cert|local issuer certificate",
        r"certificate (?:verify failed|has expired|signed by)|api ?(?:connection|timeout) ?error|apitimeout",
        r"apiconnection",
        r"\b(?:connect|read|write|pool) ?(?:time ?out|timed out|error)\b(?!: \d)|request (?:to \S+ )?timed ?out",
        r"requesttimeout",
        r"\b(?:get|post|put) https?://\S+: |error sending request|curl: \((?:5|6|7|16|18|28|35|52|55|56|60|92)\)",
        r"peer closed connection|incomplete (?:chunked read|message)|remoteprotocol|server (?:closed|disconnected)",
        # Go says these of a request that it gave up. The agent's own limit is never called a context's deadline.
        r"context deadline exceeded|client\.timeout|timeout awaiting response headers|closed network connection",
        r"(?:^|[:,] ?)eof$",
        r"\b(?:write|read|dial) tcp|\bhttp2: |unexpected eof\b|premature end",
    ),
    _rule(
        "model_not_found_or_unavailable",
        rf"model ?not ?found|{_MODEL}[:/ ]+{_ADJECTIVES}{_BE}(?:can|could )?not (?:be )?(?:a )?"
        r"(?:found|exist|available|supported|recogni[sz]ed|allowed|enabled|accessible|valid|known)",
        rf"{_MODEL}:? {_ADJECTIVES}{_BE}(?:unavailable|deprecated|retired|removed|decommissioned|unknown|unsupported)",
        rf"{_MODEL}:? {_ADJECTIVES}(?:does not|doesnt|do not|dont|may not) exist|try pulling it",
        rf"(?:unknown|invalid|unsupported|unrecogni[sz]ed|unavailable|no such|nonexistent)(?: \w+)? {_MODEL}",
        rf"(?:not|isnt) (?:a )?(?:valid|supported) {_MODEL}|issue with the selected model",
        r"could not find (?:the )?model\b|not found error.{0,60}model",
    ),
    _rule(
        "empty_or_unparseable_output",
        rf"(?:empty|blank|no|missing|without (?:an? |any )?)(?: ?\w+){{0,2}} ?{_ANSWER}",
        rf"{_ANSWER} {_BE}(?:empty|blank|missing|truncated|unparse?able|malformed|not (?:valid )?json)",
        rf"(?:malformed|invalid|unreadable|unexpected|incomplete|garbled|truncated)(?: \w+)? {_ANSWER}",
        r"(?:nothing|no text|no content) (?:was )?(?:returned|produced|written)",
        r"(?:wrote|said|returned|printed) nothing",
        rf"{_CANNOT} (?:pars|decod|unmarshal|deseriali[sz])|jsondecodeerror|expecting value: line|json at position",
        r"unexpected end of (?:json|input|file)|unexpected token|invalid character .{0,10}looking for|unparse?able",
        r"un parse ?able|parse error|not (?:valid )?json\b",
    ),
    _rule(
        "agent_timeout",
        r"timed ?out|time ?out\b|timeout|deadline (?:was )?exceeded|deadlineexceeded|time limit|too long|runtime limit",
        r"\b(?:no|without) (?:\w+ ){0,2}(?:activity|progress|heartbeat)|inactiv|(?:was|been|sat) idle|not respond",
        r"unresponsive|\bhung\b|\bstalled|watchdog",
    ),
    _rule(
        "runtime_missing_executable",
        r"(?:executable|command|binary|program|interpreter|cli)\b(?: \S+)? (?:file )?(?:was |is |could )?not (?:be )?"
        r"(?:found|installed)|\b(?:is|was) not installed|" + rf"{_CANNOT} find (?:the )?(?:\S+ )?"
        r"(?:executable|command|binary|cli)\b|no (?:such )?(?:executable|command|binary)\b",
        r"\b(?:spawn|exec|execvp?e?|fork/exec)\b.{0,120}(?:enoent|no such file|not found)|required file not found",
        r"filenotfounderror: .{0,20}no such file or directory: [\w.]+(?:$| [^/])",
        r"is not recogni[sz]ed as (?:an internal|the name)",
        r"not (?:found )?(?:in|on) (?:the |your )?(?:system )?\$?path\b",
        r"exit(?:ed with)? (?:status|code):? 127(?!\d)|: not found$",
    ),
    _rule(
        "runtime_version_unsupported",
        r"version\b.{0,40} (?:not (?:be )?(?:supported|compatible)|unsupported|incompatible|too old|outdated)",
        r"version\b.{0,40} (?:needs an update|no longer supported|or (?:higher|newer|later|above)\b|mismatch)",
        r"(?:unsupported|incompatible|outdated|minimum|mismatched) (?:\S+ ){0,3}version|version (?:mismatch|conflict)",
        r"requires? (?:an? )?(?:\S+ ){0,3}?(?:newer|later|higher|version|>=|>|v?\d+\.\d+)",
        r"(?:please|must) (?:update|upgrade)",
        r"is (?:outdated|too old|out of date)|unsupported engine|engine \S+ is incompatible|ebadengine",
        r"glibc(?:xx)? [\d.]+.{0,3} ?not found",
    ),
    _rule(
        "process_failure",
        r"exit(?:ed)? (?:with )?(?:an? )?(?:non ?zero )?(?:exit )?(?:status|code)",
        r"exited (?:with|unexpected|early|before)",
        r"exited$|exit: \d|non ?zero exit|return ?code|\bpanic(?:ked)?\b|traceback \(most recent|goroutine \d+ \[",
        r"fatal (?:error|exception|python error|signal)|unhandled|uncaught|exception in thread",
        r"\bat \S+.{0,60}:\d+:\d+\)",
        r"\bsig(?:kill|segv|abrt|term|bus|ill|fpe|int|pipe|quit|hup)\b|signal: |received signal",
        r"(?:by|on|from|with) (?:a )?signal\b",
        r"segmentation fault|segfault|core dumped|bus error|abort trap|stack ?overflow|illegal instruction",
        r"out of memory|\boom\b|oom ?kill|heap limit|cannot allocate memory|memoryerror|enomem|bad alloc",
        r"(?:process|child|agent|program|worker|command|cli) (?:has |was |had )?(?:unexpectedly )?"
        r"(?:crash|died|terminated|killed|exited|failed|aborted|ended)|crashed\b|^(?:killed|aborted)",
        rf"file already closed|{_CANNOT} (?:start|spawn|launch|fork)\b|exec format error|cannot find module",
        r"modulenotfounderror|importerror|broken pipe|\bepipe\b",
    ),
)
"""The first rule that matches decides, so the order matters."""
