# Everything a person does with this repository. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help check demo test format lint unit end-to-end generate env-tools env-up env-down release
# Nothing long begins before the machine is checked, and builds take all processors anyway.
.NOTPARALLEL:

CARGO := cargo
ENV := $(CARGO) run --quiet --locked --package eventpulse-env --
# Versions and disk, with a remedy for each thing that is missing.
CHECK := sh dev/env/check-machine.sh --if-missing
CONTROL_PLANE := kubernetes kwok
MONITORING := alertmanager prometheus
# For `make demo`: KEEP=1 leaves everything running, BUS=kafka uses a broker instead of the embedded log.
KEEP ?=
BUS ?= embedded

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: ## Does this machine have what the rest needs?
	@$(CHECK) rust $(CONTROL_PLANE) kafka $(MONITORING)

demo: ## The main job on a real control plane: an alert comes in, a Deployment is scaled, the incident is resolved
	@$(CHECK) rust $(CONTROL_PLANE) $(filter kafka,$(BUS))
	@$(MAKE) --no-print-directory release
	@$(CARGO) run --quiet --locked --package eventpulse-demo -- --bus $(BUS) $(if $(KEEP),--keep)

test: ## Everything CI runs
	@start=$$(date +%s); $(MAKE) --no-print-directory check format lint env-tools unit end-to-end \
	  && echo "make test: passed in $$(( $$(date +%s) - start )) s"

format: ## Is everything formatted?
	$(CARGO) fmt --all --check

lint: ## Clippy, with warnings denied
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit: ## Unit, property, contract, drift, boundary and API server tests
	$(CARGO) test --workspace --locked --exclude eventpulse-e2e --exclude eventpulse-demo

end-to-end: release ## The release binary as processes of its own, on real parts; then the demo
	$(CARGO) test --locked --package eventpulse-e2e -- --nocapture --test-threads=2
	$(CARGO) test --locked --package eventpulse-demo -- --test-threads=2

release: ## Build target/release/eventpulse
	$(CARGO) build --release --locked --bin eventpulse

generate: ## Write the generated files: CRDs, event schemas and examples
	$(CARGO) run --quiet --locked --bin eventpulse -- generate .

env-tools: ## Build the control plane, kwok, Kafka, Alertmanager and Prometheus into the cache
	@$(CHECK) rust $(CONTROL_PLANE) kafka $(MONITORING)
	$(ENV) tools

env-up: ## Start a real control plane that goes on running (ARGS="--name N --kafka --alertmanager --prometheus")
	@$(CHECK) rust $(CONTROL_PLANE) $(patsubst --%,%,$(filter --kafka --alertmanager --prometheus,$(ARGS)))
	$(ENV) up $(ARGS)

env-down: ## Stop it by the pids that were recorded (ARGS="--name demo" after make demo KEEP=1)
	$(ENV) down $(ARGS)
