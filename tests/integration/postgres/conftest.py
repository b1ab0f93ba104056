from __future__ import annotations

import pytest

from gateway.postgres import driver


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a server may take longer to cancel a statement than a lease allows in production."""
    monkeypatch.setattr(driver, "CANCEL_SECONDS", 10.0)
    monkeypatch.setattr(driver, "FINISH_SECONDS", 10.0)
