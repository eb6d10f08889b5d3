# Everything a developer types. Needs Python 3.11 or newer, pip and make; the rest goes to .venv
# and .tools inside this folder.

PYTHON ?= python3
SEEDS ?= 50
FUZZ_SECONDS ?= 300
MINUTES ?= 20
KILLS ?= 25
PAUSES ?= 15
CUTS ?= 15
RESTARTS ?= 3
ROUNDS ?= 100
OUTAGE_SECONDS ?= 30
SECONDS ?= 60
SOAK_MINUTES ?= 10
SEED ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run test test-compiled test-mariadb test-stores wheel check proto simulate fuzz fuzz-http robustness delayed \
	migrations soak bench clean

help:
	@echo "make run              two nodes, a gate and the counter sample on this machine"
	@echo "make test             everything the project checks of itself, under 20 minutes"
	@echo "make test-compiled    the tests of the path of a call, compiled, in about a quarter of an hour"
	@echo "make test-mariadb     crash points, an outage, histories and MINUTES=$(MINUTES) at most of the bank on MariaDB"
	@echo "make test-stores      the words of CockroachDB on the oldest PostgreSQL too"
	@echo "make wheel            a wheel in dist/ with the path of a call compiled"
	@echo "make check            formatting, lint, types, layers"
	@echo "make proto            regenerate goverse/transport/pb from proto/"
	@echo "make simulate         SEEDS=$(SEEDS) simulated clusters with faults, then two of 100 nodes"
	@echo "make fuzz             FUZZ_SECONDS=$(FUZZ_SECONDS) of nonsense at every door, then over HTTP"
	@echo "make robustness       MINUTES=$(MINUTES) at most of a bank whose processes are killed, stopped, cut off"
	@echo "make delayed          SECONDS=$(SECONDS) of delayed calls while nodes are killed and shards move"
	@echo "make migrations       moving shards, attacked: upgrades, long turns, dead nodes, etcd away"
	@echo "make soak             SOAK_MINUTES=$(SOAK_MINUTES) of rebalancing under steady load"
	@echo "make bench            every benchmark, beside limits and peers"
	@echo "make clean            remove .venv, .tools and every cache"

run: $(VENV)/run.stamp
	@exec $(BIN)/goverse-cli dev samples/counter/counter.py --nodes 2

test: $(VENV)/test.stamp
	@scripts/setup-test
	@scripts/test

test-compiled: $(VENV)/test.stamp
	@scripts/setup-test
	@exec scripts/test-compiled

test-mariadb: $(VENV)/test.stamp
	@scripts/setup-test
	@$(BIN)/python -m pytest -m mariadb tests
	@$(BIN)/python -m tests.robustness.database_away --database mariadb --seconds $(OUTAGE_SECONDS)
	@$(BIN)/python -m tests.robustness.histories --database mariadb $(SEED:%=--seed %)
	@exec $(BIN)/python -m tests.robustness.scenarios --database mariadb --minutes $(MINUTES) \
		--kills $(KILLS) --pauses $(PAUSES) --cuts $(CUTS) --restarts $(RESTARTS) $(SEED:%=--seed %)

test-stores: $(VENV)/test.stamp
	@scripts/setup-test
	@exec $(BIN)/python -m pytest -m stores tests

wheel: $(VENV)/test.stamp
	@exec scripts/wheel

check: $(VENV)/test.stamp
	@scripts/check

proto:
	@PYTHON="$(PYTHON)" scripts/gen-proto

simulate: $(VENV)/test.stamp
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --coverage --mutants
	@exec $(BIN)/python -m tests.simulation.large

fuzz: $(VENV)/test.stamp
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)
	@exec $(BIN)/python -m tests.robustness.http_fuzz --seconds $(FUZZ_SECONDS)

fuzz-http: $(VENV)/test.stamp
	@exec $(BIN)/python -m tests.robustness.http_fuzz --seconds $(FUZZ_SECONDS)

robustness: $(VENV)/test.stamp
	@scripts/setup-test
	@$(BIN)/python -m tests.robustness.scenarios --minutes $(MINUTES) --kills $(KILLS) \
		--pauses $(PAUSES) --cuts $(CUTS) --restarts $(RESTARTS) $(SEED:%=--seed %)
	@$(BIN)/python -m tests.robustness.paused_owner --rounds $(ROUNDS) $(SEED:%=--seed %)
	@$(BIN)/python -m tests.robustness.database_away --seconds $(OUTAGE_SECONDS)
	@exec $(BIN)/python -m tests.robustness.histories $(SEED:%=--seed %)

delayed: $(VENV)/test.stamp
	@scripts/setup-test
	@exec $(BIN)/python -m benchmarks delayed --seconds $(SECONDS)

migrations: $(VENV)/test.stamp
	@scripts/setup-test
	@exec $(BIN)/python -m tests.migration $(SEED:%=--seed %)

soak: $(VENV)/test.stamp
	@scripts/setup-test
	@exec $(BIN)/python -m tests.migration.soak --minutes $(SOAK_MINUTES) $(SEED:%=--seed %)

bench: $(VENV)/test.stamp
	@scripts/setup-test
	@scripts/bench

clean:
	rm -rf $(VENV) .tools .cache reports build dist *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# A stamp is younger than what it was made from, so that an edit of either file installs again.
$(VENV)/%.stamp: pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" scripts/setup $*
