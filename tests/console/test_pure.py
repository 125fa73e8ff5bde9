"""The page's own tests of what only computes, run by Node.js; and what no module may do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from ingress.console.assets import HERE, assets

TESTS = Path(__file__).with_name("pure.test.mjs")
SOURCES = {path: path.read_text() for path in (HERE / "static").rglob("*.js")}


def node(*arguments: str | Path) -> str:
    found = shutil.which("node")
    assert found, "The console's tests need Node.js 20 or later: apt-get install nodejs"
    ran = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def tables() -> dict[str, dict[str, str]]:
    module = (HERE / "static/i18n.js").as_uri()
    told: dict[str, dict[str, str]] = json.loads(
        node("--input-type=module", "-e", f'import {{TABLES}} from "{module}"; console.log(JSON.stringify(TABLES))')
    )
    return told


def test_what_computes_computes_right() -> None:
    told = node("--test", "--test-reporter=tap", TESTS)
    (passed,) = re.findall(r"^# pass (\d+)$", told, re.MULTILINE)
    assert int(passed) == TESTS.read_text().count("\ntest(")


def test_all_languages_say_the_same_things() -> None:
    en, *others = tables().values()
    for other in others:
        assert list(other) == list(en)
        for key, text in en.items():
            assert set(re.findall(r"\{\w+\}", other[key])) == set(re.findall(r"\{\w+\}", text)), key


def test_every_word_that_is_used_exists_and_every_one_that_exists_is_used() -> None:
    known = set(tables()["en"])
    whole = {key for text in SOURCES.values() for key in re.findall(r"""\bt\(\s*["']([^"']+)["']""", text)}
    begun = {key for text in SOURCES.values() for key in re.findall(r"\bt\(\s*`([^`$]+)\$\{", text)}
    chosen = {key for text in SOURCES.values() for key in re.findall(r'\bt\([^"`()]+ \? "([^"]+)" : "[^"]+"', text)}
    chosen |= {key for text in SOURCES.values() for key in re.findall(r'\bt\([^"`()]+ \? "[^"]+" : "([^"]+)"', text)}
    assert whole | chosen <= known
    for beginning in begun:
        assert any(key.startswith(beginning) for key in known), beginning
    used = {key for key in known if key in whole | chosen or key.startswith(tuple(begun)) or key == "language"}
    assert known == used


def test_nothing_that_a_model_or_a_log_says_can_become_html() -> None:
    for path, text in SOURCES.items():
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in text, f"{path.name}: {word}"


def test_no_module_names_another_by_anything_but_its_place() -> None:
    modules = {name: one.content.decode() for name, one in assets().files.items() if name.endswith(".js")}
    for name, text in modules.items():
        for place in re.findall(
            r"""(?:^import.*?from|^import|}from|void import\()\s*"([^"]+)";?""", text, re.MULTILINE
        ):
            assert place.startswith(("./", "../")), f"{name}: {place}"
            assert (HERE / Path(name).parent / place).is_file(), f"{name}: {place}"
