"""Whatever a test does not deliver waits in its own folder."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def spool(tmp_path, monkeypatch):
    monkeypatch.setenv("IRRBENCH_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"
