# Everything a person does with this repository. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help demo test format lint unit end-to-end generate env-tools env-up env-down release

CARGO := cargo
ENV := $(CARGO) run --quiet --locked --package eventpulse-env --
# For `make demo`: KEEP=1 leaves everything running, BUS=kafka uses a broker instead of the embedded log.
KEEP ?=
BUS ?= embedded

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: release ## The main job on a real control plane: an alert comes in, a Deployment is scaled, the incident is resolved
	@$(CARGO) run --quiet --locked --package eventpulse-demo -- --bus $(BUS) $(if $(KEEP),--keep)

test: ## Everything CI runs
	@start=$$(date +%s); $(MAKE) --no-print-directory format lint env-tools unit end-to-end \
	  && echo "make test: passed in $$(( $$(date +%s) - start )) s"

format: ## Is everything formatted?
	$(CARGO) fmt --all --check

lint: ## Clippy, with warnings denied
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit: ## Unit, property, contract, drift, boundary and API server tests
	$(CARGO) test --workspace --locked --exclude eventpulse-e2e

end-to-end: release ## The release binary as processes of its own, on real parts
	$(CARGO) test --locked --package eventpulse-e2e -- --nocapture --test-threads=1

release: ## Build target/release/eventpulse
	$(CARGO) build --release --locked --bin eventpulse

generate: ## Write the generated files: CRDs, event schemas and examples
	$(CARGO) run --quiet --locked --bin eventpulse -- generate .

env-tools: ## Build the control plane, kwok, Kafka, Alertmanager and Prometheus into the cache
	$(ENV) tools

env-up: ## Start a real control plane on this machine that goes on running (ARGS="--kafka" for a broker too)
	$(ENV) up $(ARGS)

env-down: ## Stop it by the pids that were recorded
	$(ENV) down $(ARGS)
