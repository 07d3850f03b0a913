# The short way to everything.  `make` alone says what there is.

PYTHON := .venv/bin/python
KERNEL ?= 7.2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full check run matrix forecasts fleet looking cost documents dashboards \
	pictures screens lab-shell clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing and fetch the lab's kernels (Debian or Ubuntu, root)
	@.ci/setup

demo: setup ## boot a guest, make a VM's map fail, and watch pinwatch say why
	@$(PYTHON) -m tests.lab.demo

# Each step runs whatever the one before it said, and pytest's summary comes last.
define run_all
status=0; for step in "ruff check" "ruff format --check" "mypy" "pytest $(1)"; \
do $(PYTHON) -m $$step || status=1; done; exit $$status
endef

test: setup ## everything: lint, types, unit and replay tests, and the lab's guests
	@$(call run_all,)

test-full: ## the same and all that takes longer, on a kernel that it builds first (two hours)
	@.ci/setup --full
	@$(call run_all,--full)

check: $(PYTHON) ## the quick part: lint, types, unit and replay tests, dashboards and alerts
	@$(call run_all,tests/unit tests/replay tests/terminal tests/monitoring)

run: $(PYTHON) ## run the daemon on this machine
	@.venv/bin/pinwatch run

matrix: ## induce every cause on every kernel and write docs/matrix.md (half an hour)
	@.ci/setup --full
	@$(PYTHON) -m tests.lab.matrix

forecasts: setup ## let `check` predict, then really map, and write docs/forecast-matrix.md (half an hour)
	@$(PYTHON) -m tests.lab.forecasts

dashboards: $(PYTHON) ## write dashboards_out/*.json and kubernetes/prometheusrule.yaml in dashboards/
	@$(PYTHON) -m dashboards.generate

pictures: $(PYTHON) ## draw what the dashboards show of replayed recordings, into build/pictures/
	@$(PYTHON) -m tests.monitoring.pictures build/pictures

screens: $(PYTHON) ## write the expected screens of `pinwatch top` anew (tests/terminal/screens)
	@SCREENS=write $(PYTHON) -m pytest tests/terminal

fleet: $(PYTHON) ## simulate 500 hosts x 50 VMs for a real Prometheus, write docs/fleet-measured.md (20 min, 12 GiB)
	@$(PYTHON) -m tests.monitoring.scale --write

looking: setup ## what looking at the memory of 100 idle VMs costs on this machine (seven minutes)
	@$(PYTHON) -m tests.lab.looking

cost: setup ## instructions a page of a VFIO map with and without pinwatch (an hour)
	@$(PYTHON) -m tests.lab.cost

documents: $(PYTHON) ## write docs/why.md, docs/reference.md and the pictures anew from the program
	@$(PYTHON) -m tests.documents

lab-shell: setup ## a root shell in a guest (KERNEL=6.1, 6.12 or 7.2)
	@$(PYTHON) -m tests.lab --kernel $(KERNEL) --shell

clean: ## remove what the tools left in the checkout (the lab's cache stays)
	@rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(PYTHON):
	@echo "no .venv here: run 'make setup' first" >&2; exit 3
