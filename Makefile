# One line a verb. Each installs what it needs: Python packages into .venv, programs (as root, with apt) for the tests.
SHELL := /bin/bash
JOBS ?= 2
BENCH ?= build/bench.json
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE :=
PYTEST := python -m pytest -p no:cacheprovider -n $(JOBS)
.PHONY: demo quick test lint types bench cov asan fuzz crash wheel docs clean peers
.DEFAULT_GOAL := quick
.NOTPARALLEL:

demo:  env-run         ; lamella demo
quick: env-test        ; $(PYTEST) -m "not slow" --ignore=tests/laws
test:  env-test peers  ; $(PYTEST)
lint:  env-lint        ; ruff check . && cython-lint src && codespell
types: env-test env-lint; mypy && python -m mypy.stubtest --allowlist .ci/stubtest-allow --ignore-unused-allowlist $$(.ci/kernels)
bench: env-bench peers ; .ci/wheel && PYTHONPATH=build/wheel python -m lamella.bench -o $(BENCH)
cov:   env-test peers  ; .ci/coverage -n $(JOBS) --ignore=tests/laws
asan:  env-test        ; .ci/sanitize -n $(JOBS) tests/kernels
fuzz:  env-test        ; HYPOTHESIS_PROFILE=fuzz .ci/sanitize -n $(JOBS) -m hypothesis tests
crash: env-test peers  ; python -m tests.store.crash
wheel: env-run         ; .ci/wheel
docs:  env-docs        ; mkdocs build --strict
clean:                 ; rm -rf .venv build dist site .coverage* src/*.egg-info src/lamella/_kernels/*.{so,c}

env-%: ; @.ci/venv $(filter-out run,$*)
peers: ; @tests/install_peers.sh
