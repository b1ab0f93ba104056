"""Ids are read strictly, tokens are long and stored as hashes only."""

from __future__ import annotations

import re
from uuid import UUID

import pytest

from gateway.errors import Invalid
from gateway.ids import RUNTIME_TOKEN_PREFIX, USER_TOKEN_PREFIX, new_id, new_token, parse_id, token_hash


def test_parse_id_reads_what_new_id_makes() -> None:
    fresh = new_id()
    assert parse_id(str(fresh)) == fresh
    assert fresh != new_id()


@pytest.mark.parametrize("text", ["", "x", "1", "00000000-0000-0000-0000-00000000000g", str(UUID(int=0)), "' or 1=1"])
def test_parse_id_of_anything_else_is_a_400_that_names_the_field(text: str) -> None:
    with pytest.raises(Invalid, match="agent_id") as rejected:
        parse_id(text, field="agent_id")
    assert rejected.value.code == "invalid_id"


@pytest.mark.parametrize("prefix", [USER_TOKEN_PREFIX, RUNTIME_TOKEN_PREFIX])
def test_new_token_is_its_prefix_and_32_random_bytes_that_fit_a_url(prefix: str) -> None:
    token = new_token(prefix)
    assert re.fullmatch(rf"{prefix}[A-Za-z0-9_-]{{43}}", token)
    assert token != new_token(prefix)


def test_token_hash_is_sha256_in_hex() -> None:
    assert token_hash("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert token_hash("gwu_a") != token_hash("gwr_a")
