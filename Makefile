# Everything a person does with this repository. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help env-up env-down env-tools

ENV := cargo run --quiet --locked --package eventpulse-env --

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env-tools: ## Build the control plane, kwok, Kafka, Alertmanager and Prometheus into the cache
	$(ENV) tools

env-up: ## Start a real control plane on this machine that goes on running (ARGS="--kafka" for a broker too)
	$(ENV) up $(ARGS)

env-down: ## Stop it by the pids that were recorded
	$(ENV) down $(ARGS)
