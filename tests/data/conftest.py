"""Data sources of tests write to a cache of their own, and find no data sets that they did not make."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Set the cache folder of a test."""
    folder = tmp_path_factory.mktemp("cache") / "fedfuse"
    monkeypatch.setenv("FEDFUSE_CACHE", str(folder))
    monkeypatch.delenv("FEDFUSE_DATA", raising=False)
    return folder
