"""What the README says that needs no server: where its links lead, and its settings."""

from __future__ import annotations

import inspect
import re

import pytest
import yaml

from deployments.config import ModelConfig, Settings
from deployments.engines.mlx.args import MLXArgs
from deployments.residency import ResidencyPolicy
from tests.e2e.serving import ROOT
from tests.readme import anchors, blocks, first_column, links


@pytest.mark.parametrize("link", sorted({link for link in links() if not re.match("https?:", link)}))
def test_link_leads_somewhere(link: str) -> None:
    path, _, anchor = link.partition("#")
    assert (ROOT / path).exists()
    if not path:
        assert anchor in anchors()


@pytest.mark.parametrize("block", blocks("yaml"))
def test_models_are_as_the_settings_have_them(block: str) -> None:
    data = yaml.safe_load(block)
    models = data["models"] if isinstance(data, dict) else data
    assert models
    for model in models:
        ModelConfig.model_validate(model)


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("setting", set(inspect.signature(ResidencyPolicy).parameters)),
        ("setting of the server", set(Settings.model_fields)),
        ("setting of a model", set(ModelConfig.model_fields)),
        ("key", set(MLXArgs.model_fields)),
    ],
)
def test_table_names_settings_that_there_are(heading: str, names: set[str]) -> None:
    told = first_column(heading)
    assert told
    assert told - names == set()
