# Every target makes the virtual environment it needs from a hashed lock file: git, make and
# Python 3.11 or newer are all that has to be there.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q
# Most tests wait for something most of the time, so more of them than cores run side by side.
BESIDE := -n 3 --dist worksteal
LANGUAGE := language language_more steps sleep replay start sync plain endless cancel cancelled_tasks \
  cancelled_with_limits timeouts_at_once timeouts_replay schedules versions transactions \
  transactions_elsewhere waiting queue_order queue_changes
# What is not the engine's: pages, the command line, tools that have a database of their own.
NOT_ENGINE := bench cli_dev cli_migrate cli_talk cli_worker cli_workflow docs docs_demo metrics_prometheus typed_example
LOCALKUBE := tests/e2e/cluster/localkube
SCRIPTS := .ci/run scripts/lock scripts/make-venv scripts/render-chart $(LOCALKUBE) tests/e2e/cluster/images
LOCKS := dev runtime operator build bench go

# $(call quiet,what,command): one line when it passes, everything it said when it fails; a recipe
# that has called it ends with $(verdict), so that one run shows all that is wrong.
quiet = @if out=$$($(2) 2>&1); then echo "ok    $(1)"; else printf '%s\n' "$$out" "FAIL  $(1)"; bad=1; fi
verdict = @[[ -z $${bad:-} ]]

.PHONY: help
help: ## this list
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1	\2/' | expand -t 20

.PHONY: demo
demo: .venv/.ready ## feed 500 orders through two workers, kill one, and count what was lost (nothing)
	@$(BIN)/python examples/orders/demo.py

.PHONY: test
test: .venv/.ready ## the tests that need no cluster, on an embedded Postgres
	@$(PYTEST) -m "not slow" $(BESIDE)

.PHONY: test-slow
test-slow: .venv/.ready ## the long races and chaos runs
	@$(PYTEST) -m slow -n 2 --dist worksteal

.PHONY: test-replay
test-replay: .venv/.ready ## the tests of the language once more, with a replay after every checkpoint
	@$(PYTEST) -m "not slow" --everstep-replay=always $(BESIDE) $(LANGUAGE:%=tests/integration/test_%.py)

.PHONY: test-oldest
test-oldest: .venv/.ready ## the tests of the engine on PostgreSQL 15, the oldest that is supported (Debian's package)
	@$(PYTEST) -m "not slow" --postgres=15 $(BESIDE) tests/integration $(NOT_ENGINE:%=--ignore=tests/integration/test_%.py)

.PHONY: test-full
test-full: check test test-slow test-replay test-oldest e2e ## everything CI runs: check, test, e2e

.PHONY: check
check: .venv/.ready ## format, lint, types, import rules and the quick unit tests
	$(call quiet,format,$(BIN)/ruff format --check .)
	$(call quiet,lint,$(BIN)/ruff check .)
	$(call quiet,types,$(BIN)/mypy)
	$(call quiet,imports,$(BIN)/lint-imports)
	$(call quiet,locks,$(BIN)/python scripts/check_locks.py)
	$(call quiet,scripts,$(if $(shell command -v shellcheck),shellcheck $(SCRIPTS),true))
	$(call quiet,unit tests,$(PYTEST) tests/unit -m "not slow")
	$(verdict)

.PHONY: e2e
e2e: .venv/.ready ## the suite on a real Kubernetes: that of KUBECONFIG, or one node started for it (root)
	@$(PYTEST) tests/e2e

.PHONY: bench
bench: .venv/.ready .venv-bench/.ready ## everstep beside DBOS on this machine, in one run
	@$(BIN)/python tests/bench/run.py --dbos-python .venv-bench/bin/python

.PHONY: images
images: ## build the operator's and the example's container images with buildah (root)
	@tests/e2e/cluster/images

.PHONY: chart
chart: .venv/.ready ## render manifests/install.yaml from the chart; with CI=true only check that it is fresh
	@scripts/render-chart $(if $(CI),--check)

.PHONY: lock
lock: .venv/.locked ## pin the dependencies anew (make lock UPGRADE=--upgrade: to their newest versions)
	@for name in $(LOCKS); do scripts/lock "$$name" $(UPGRADE); done

.PHONY: clean
clean: ## remove what these targets made inside the checkout
	@rm -rf .venv .venv-bench out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
	rm -rf runtime/*.egg-info operator/*.egg-info *.egg-info

.venv/.ready: .venv/.locked pyproject.toml
	$(call quiet,everstep installed,$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .)
	$(verdict)
	@touch $@

.venv/.locked: requirements/dev.txt
	@scripts/make-venv .venv $<
	touch $@

.venv-bench/.ready: requirements/bench.txt
	@scripts/make-venv .venv-bench $<
	touch $@
