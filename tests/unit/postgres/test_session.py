"""Servers that are too old are refused in words, before a statement that they do not know."""

from __future__ import annotations

import pytest

from gateway.errors import ConfigError
from gateway.postgres.session import refuse_old, session_script


@pytest.mark.parametrize(("number", "shown"), [(140019, "14.19"), (100023, "10.23"), (90624, "9.6"), (80002, "8.0")])
def test_server_that_is_too_old_is_refused_with_its_version(number: int, shown: str) -> None:
    with pytest.raises(ConfigError, match=f"PostgreSQL {shown}, and 15 is the oldest that works"):
        refuse_old(number)


@pytest.mark.parametrize("number", [150000, 180001, 190000])
def test_server_of_a_supported_or_newer_version_is_not_refused(number: int) -> None:
    refuse_old(number)


def test_limits_that_a_version_does_not_know_are_not_set() -> None:
    assert "transaction_timeout" not in session_script(160000, 1).replace("idle_in_transaction_session_timeout", "")
    assert "'transaction_timeout'" in session_script(170000, 1)
