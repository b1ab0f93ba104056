"""A database_url that libpq cannot read is named before anything is tried."""

from __future__ import annotations

import pytest

from gateway.errors import ConfigError
from gateway.postgres.pool import checked_conninfo


@pytest.mark.parametrize(
    "conninfo",
    ["host=h bogus=1", "postgresql://u:p@127.0.0.1:notaport/db", "host=h port=70000", "postgresql://u:hidden@[::1/db"],
)
def test_conninfo_that_libpq_cannot_read_is_a_config_error_that_names_the_key(conninfo: str) -> None:
    with pytest.raises(ConfigError, match=r"^database_url: ") as refused:
        checked_conninfo(conninfo)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "conninfo", ["host=a,b port=5432,5433", "postgresql://a:1,b/db?target_session_attrs=read-write", ""]
)
def test_conninfo_that_libpq_can_read_is_returned(conninfo: str) -> None:
    assert checked_conninfo(conninfo) == conninfo
