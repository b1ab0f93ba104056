"""What an operator is told of a connection that failed. Libraries wrap the cause, often without a word of their own."""

from __future__ import annotations

import ssl

_DEPTH_MAX = 8


def why(error: BaseException) -> str:
    """The first words along the chain of what caused an exception, "" when there are none."""
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
