from __future__ import annotations

import os
import shutil
from pathlib import Path

from deployments.engines.mlx import tokenizers
from deployments.engines.mlx.detokenizer import SafeDetokenizer


def test_tokenizer_is_read_once_until_its_folder_changes(smollm2: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(smollm2, tmp_path / "model", copy_function=os.symlink))
    first = tokenizers.load(folder)
    assert tokenizers.load(folder) is first
    assert isinstance(first.detokenizer, SafeDetokenizer)
    template = folder / "chat_template.jinja"
    template.unlink(missing_ok=True)
    template.write_text("{{ 'other' }}")
    again = tokenizers.load(folder)
    assert again is not first
    assert again.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "other"


def test_tokenizers_of_two_configurations_are_two(smollm2: Path) -> None:
    assert tokenizers.load(smollm2) is not tokenizers.load(smollm2, {"chat_template": "{{ 'mine' }}"})
