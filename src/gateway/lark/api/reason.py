"""The reason that an operator is told when a connection failed.

Libraries wrap the cause, often in an exception without a text of its own.
"""

from __future__ import annotations

import ssl

_DEPTH_MAX = 8


def why(error: BaseException) -> str:
    """Return the first non-empty text in the chain of causes of an exception, "" if there is none."""
    link: BaseException | None = error
    for _ in range(_DEPTH_MAX):
        if link is None:
            break
        if isinstance(link, ssl.SSLCertVerificationError):
            who = "SSL_CERT_FILE names other authorities to believe, as those of a proxy that looks into TLS"
            return f"its certificate is not believed: {link.verify_message}; {who}"
        if words := str(link):
            return words
        link = link.__cause__ or link.__context__
    return ""
