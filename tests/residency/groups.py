"""All models of Serve's contexts, as the policy groups them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from deployments.residency.variants import Group, Known


def grouped(contexts: Mapping[Hashable, Any]) -> dict[str, Group]:
    """All models of Serve's contexts. Raises what `Known.read` raises."""
    known = Known()
    known.read(contexts)
    return {name: known.group(name, contexts) for name in known.models}
