from __future__ import annotations

import subprocess

from deployments.environment import SERVING, exports
from deployments.warm import SOFT_LIMIT


def shell(script: str, **env: str) -> dict[str, str]:
    """The environment after the script."""
    done = subprocess.run(["sh", "-c", f"{script}\nenv"], env=env, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def test_shell_takes_over_what_is_to_be_in_the_environment() -> None:
    assert shell(exports()).items() >= SERVING.items()


def test_what_an_operator_has_set_stays() -> None:
    assert shell(exports(), **{SOFT_LIMIT: "3"})[SOFT_LIMIT] == "3"
