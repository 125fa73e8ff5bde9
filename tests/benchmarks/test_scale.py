from __future__ import annotations

import warnings

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from benchmarks.scale_policy import UP, ticks


def test_policy_is_asked_about_as_many_models_as_said() -> None:
    few, many = (ticks(models, quick=True) for models in (UP, 4 * UP))
    assert (few.models, many.models) == (UP, 4 * UP)
    assert few.table_bytes < many.table_bytes
    assert min(*few.idle, *few.busy, *many.idle, *many.busy) > 0
