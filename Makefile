# Two commands for a newcomer: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo dev test unit integration property model crash-awaits fuzz crash chaos e2e bench bench-peers bench-latency bench-memory bench-logs bench-webhooks bench-full bench-lifecycle bench-replicas bench-resident bench-growth bench-pinned cost lint lock sbom audit docs schema screenshots clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Set up .venv with both distributions

$(INSTALLED): requirements.lock pyproject.toml sdk/python/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Setting up $(VENV) (once, about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e sdk/python
	@touch $@

demo: $(INSTALLED) ## The whole story on real input: submit, kill the node, kill the server, finish, verify the webhook
	@$(BIN)/python examples/batch/demo.py

dev: $(INSTALLED) ## PostgreSQL and server on http://localhost:8080, data kept in .controlplane/ (ARGS="agent.py")
	@$(BIN)/controlplane dev $(ARGS)

test: $(INSTALLED) ## Lint, types and every test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder $(if $(CI),--reruns 1)

unit: $(INSTALLED) ## Tests that need no database
	@$(PYTEST) tests/unit sdk/python/tests -q

integration: $(INSTALLED) ## Tests on a real PostgreSQL
	@$(PYTEST) -n 2 --dist loadfile tests/integration tests/migrations

property: $(INSTALLED) ## The stages beside a small model, long form (ARGS="--seed 1 --minutes 60")
	@$(BIN)/python -m tests.property $(ARGS)

model: $(INSTALLED) ## The claim protocol in every state that a model of it can come to, long form (needs root for Debian's spin)
	@MODEL=long $(PYTEST) tests/model

crash-awaits: $(INSTALLED) ## Servers, agents and callers die at every await of theirs, one after the other (ARGS="--seed 1 --places 4")
	@$(BIN)/python -m tests.crash.awaits $(ARGS)

fuzz: $(INSTALLED) ## Schemathesis against the OpenAPI document, long form (ARGS="--seed 1")
	@$(BIN)/python -m tests.fuzz $(ARGS)

crash: $(INSTALLED) ## Kill a process before and after every await of the stages and daemons (ARGS="--json crash.json")
	@$(BIN)/python -m tests.crash $(ARGS)

chaos: $(INSTALLED) ## Kill everything under load and compare what was seen with what is kept (ARGS="--seed 1 --minutes 30")
	@$(BIN)/python -m tests.chaos $(ARGS)

e2e: $(INSTALLED) ## Real processes, real signals
	@$(PYTEST) tests/e2e

bench: $(INSTALLED) ## Every bench in its short form, at most 10 minutes (ARGS="--only latency,replicas")
	@$(BIN)/python bench/all.py $(ARGS)

bench-full: $(INSTALLED) ## Every bench in its long form, for hours; keeps what it measured in docs/performance
	@$(BIN)/python bench/all.py --full $(ARGS)

bench-lifecycle: $(INSTALLED) ## Submits, one by one and in batches, and lifecycles per second beside the machine's own limit
	@$(BIN)/python bench/lifecycle.py $(ARGS)

bench-peers: $(INSTALLED) ## Ours beside DBOS, Procrastinate, PgQueuer, Celery, taskiq and a naive route (ARGS="--rounds 1"; needs the network once)
	@$(BIN)/python bench/peers $(ARGS)

bench-latency: $(INSTALLED) ## From submit to start, result and webhook, at a calm pace and at half of the most (ARGS="--rounds 1")
	@$(BIN)/python bench/latency.py $(ARGS)

bench-memory: $(INSTALLED) ## Checkpoints awaited one by one, from many runs at once, and of a list that grows (ARGS="--rounds 1")
	@$(BIN)/python bench/memory.py $(ARGS)

bench-logs: $(INSTALLED) ## Log lines, one per request, and what they do to submits beside them (ARGS="--rounds 1")
	@$(BIN)/python bench/logs.py $(ARGS)

bench-replicas: $(INSTALLED) ## A second server and node, a thousand idle nodes, a thousand readers of events (ARGS="--only idle")
	@$(BIN)/python bench/replicas.py $(ARGS)

bench-resident: $(INSTALLED) ## Memory of the server over 100,000 lifecycles and with 10,000 who wait (ARGS="--lifecycles 1000000")
	@$(BIN)/python bench/resident.py $(ARGS)

bench-webhooks: $(INSTALLED) ## Receivers that answer beside thousands that hang
	@$(BIN)/python bench/webhooks.py

bench-growth: $(INSTALLED) ## Each step with years of work in the database, beside an empty one (ARGS="--scale 1" is the long form)
	@$(BIN)/python bench/growth.py $(ARGS)

bench-pinned: $(INSTALLED) ## Claims while somebody holds a snapshot for a minute (ARGS="--minutes 10")
	@$(BIN)/python bench/pinned.py $(ARGS)

cost: $(INSTALLED) ## CPU, round trips, log and buffers of a submit, a claim, a report and a lifecycle
	@$(BIN)/python bench/flush.py
	@$(BIN)/python bench/cost.py

lint: $(INSTALLED) ## Lint and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lock: $(INSTALLED) ## Resolve the lock anew from the ranges in pyproject.toml
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header \
	  --generate-hashes pyproject.toml sdk/python/pyproject.toml --extra ai \
	  --group pyproject.toml:test --group pyproject.toml:lint --group pyproject.toml:build \
	  -o requirements.lock

sbom: $(INSTALLED) ## Write sbom.json: what is installed from the lock, as CycloneDX
	@$(BIN)/python -m tests.docs.parts > sbom.json
	@echo "sbom.json"

audit: $(INSTALLED) ## Ask the public database of advisories about what the lock names (needs the network)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --target .venv/audit pip-audit
	@PYTHONPATH=.venv/audit $(BIN)/python -m pip_audit --require-hashes --disable-pip -r requirements.lock

docs: $(INSTALLED) ## Write the pages that are made from the code anew
	@$(BIN)/python -m tests.docs.generated

schema: $(INSTALLED) ## Write migrations/schema.sql anew
	@$(BIN)/python -m tests.migrations.snapshot

screenshots: $(INSTALLED) ## Make the pictures of the README anew (Debian's Chromium, which tests/browser installs)
	@$(BIN)/python -m tests.docs.screenshots docs/images

clean: ## Remove the environment and what dev and tests left
	@rm -rf $(VENV) .venv-agentfield .controlplane .pytest_cache .mypy_cache .ruff_cache .hypothesis
