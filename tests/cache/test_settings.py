from __future__ import annotations

import pytest

from deployments.cache.settings import CacheSettings, ModelCache, ttl_s

ON = CacheSettings(enabled=True, ttl_s=10)
OFF = CacheSettings(ttl_s=10)


@pytest.mark.parametrize(
    ("model", "settings", "seconds"),
    [
        (ModelCache(), OFF, None),
        (ModelCache(), ON, 10),
        (ModelCache(ttl_s=5), ON, 5),
        (ModelCache(ttl_s=5), OFF, None),
        (ModelCache(enabled=False, ttl_s=5), ON, None),
        (ModelCache(enabled=True), OFF, 10),
        (ModelCache(enabled=True, ttl_s=5), OFF, 5),
    ],
)
def test_models_own_word_comes_first(model: ModelCache, settings: CacheSettings, seconds: float | None) -> None:
    assert ttl_s(model, settings) == seconds


def test_nothing_is_kept_by_default() -> None:
    assert ttl_s(ModelCache(), CacheSettings()) is None
