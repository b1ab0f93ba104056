"""What is told of a connection that failed."""

from __future__ import annotations

import ssl
from itertools import pairwise

import pytest

from gateway.lark.api.reason import why


def chain(*errors: Exception) -> Exception:
    for outer, inner in pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.verify_message = "unable to get local issuer certificate"
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("no route"), "no route"),
        (chain(RuntimeError(), OSError("no route")), "no route"),
        (chain(RuntimeError("outer"), OSError("inner")), "outer"),
        (RuntimeError(), ""),
        (chain(*(RuntimeError() for _ in range(20)), OSError("too deep")), ""),
    ],
)
def test_why_is_the_first_words_of_the_chain(error: Exception, words: str) -> None:
    assert why(error) == words


def test_why_finds_what_an_error_was_raised_beside() -> None:
    outer = RuntimeError()
    outer.__context__ = OSError("beside")
    assert why(outer) == "beside"


def test_why_of_a_certificate_says_what_can_be_done() -> None:
    words = why(chain(RuntimeError(), RuntimeError(), untrusted()))
    assert words.startswith("its certificate is not believed: unable to get local issuer certificate; SSL_CERT_FILE")
