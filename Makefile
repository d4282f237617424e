# Two commands matter: `make demo` and `make test`. GNU Make 3.81 (the one macOS ships) is enough.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
SOURCES := wicketgate governor qos rollout transport bench tests
# What decides: pure, and every branch of it tested.
CORES := governor/*,qos/*,rollout/*,transport/sse.py,transport/streams.py,transport/limits.py,transport/budgets.py,transport/connection.py,transport/connection_counters.py,transport/counters.py,transport/deadlines.py,transport/events.py,transport/farewell.py,transport/forwarded.py,transport/frames.py,transport/headers.py,transport/newcomers.py,transport/outbox.py,transport/preface.py,transport/proxy_protocol.py,transport/rates.py,transport/receiving.py,transport/sending.py,transport/triage.py,transport/wire.py,wicketgate/snapshot.py,wicketgate/pipeline/queue.py,wicketgate/pipeline/prefix.py,wicketgate/pipeline/phrases.py,wicketgate/pipeline/token_bytes.py,wicketgate/pipeline/entries.py,wicketgate/pipeline/thinking.py,wicketgate/pipeline/chat_messages.py,wicketgate/pipeline/output_reader.py,wicketgate/pipeline/probe.py,wicketgate/pipeline/score_plan.py,wicketgate/pipeline/pieces.py,wicketgate/pipeline/tools/*,wicketgate/api/cors.py,wicketgate/api/patience.py,wicketgate/api/responses/store.py,wicketgate/api/value_count.py,wicketgate/api/envelopes.py,wicketgate/api/schemas.py,wicketgate/engine/scheduler.py,wicketgate/engine/plant.py,wicketgate/engine/supervision.py
# Tests compute with MLX in their own process; there it needs what the engine host gets, or takes five times as long.
BLAS = $(shell $(PY) -c 'from wicketgate.platform import engine_environment as given; print(*(f"{name}={value}" for name, value in given().items() if "BLAS" in name or name == "LD_PRELOAD"))')
FOUND := $(firstword $(foreach v,3.11 3.12 3.13 3.14,$(shell command -v python$(v) 2>/dev/null)))
PYTHON ?= $(FOUND)

.PHONY: help install demo check format quick test lock docs clean

help:
	@echo "make demo    install, start the server on the model that ships, print what to try"
	@echo "make test    everything that CI runs: checks and all tests"
	@echo "make quick   unit and property tests"
	@echo "make check   format, lint, types, import contracts"
	@echo "make format  rewrite the files as 'make check' wants them"
	@echo "make docs    regenerate docs/configuration.md from the schema"
	@echo "make lock    resolve requirements/lock.txt anew"

install: $(STAMP)

$(STAMP): requirements/lock.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no python3.11, 3.12, 3.13 or 3.14 on PATH. Install one (macOS: brew install python@3.13; Debian: apt install python3.11 python3.11-venv) or run: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/lock.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: install
	@$(PY) -m wicketgate demo $(ARGS)

check: install
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

format: install
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

quick: install
	$(VENV)/bin/pytest -n auto --maxprocesses 4 --dist loadfile tests/unit tests/property

test: check
	env $(BLAS) $(VENV)/bin/pytest -n auto --maxprocesses 4 --dist loadfile tests/unit tests/property tests/integration tests/security --cov --cov-report=
	$(VENV)/bin/coverage report --skip-covered --fail-under=90
	$(VENV)/bin/coverage report --include='$(CORES)' --skip-covered --fail-under=100
	$(VENV)/bin/pytest tests/load

docs: install
	$(PY) -m wicketgate.cli.reference

lock:
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --group dev pyproject.toml -o requirements/lock.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis
