# Everything a person does with this repository. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help check demo bench fuzz fuzz-keep test format lint unit simulate mutants chaos end-to-end generate image env-tools env-up env-down release
# Nothing long begins before the machine is checked, and builds take all processors anyway.
.NOTPARALLEL:

CARGO := cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
# Cargo and the tests run in directories of their own, from which a relative path would lead elsewhere.
absolute = $(if $(filter /%,$(1)),$(1),$(CURDIR)/$(1))
$(foreach name,CARGO_TARGET_DIR EVENTPULSE_CACHE EVENTPULSE_BIN,$(if $($(name)),$(eval export $(name) := $(call absolute,$($(name))))))
# What is built for tests is selected out of the whole workspace (--workspace), never by --package: what a dependency is built with is the
# sum of what the selected packages ask for, and a second sum is a second build of most of them.
# $(call build,PROGRAM): a program of this repository, with a word to whoever waits for its first build, and cargo's own progress.
build = { [ -x "$(TARGET)/debug/$(1)" ] || echo "Building $(1), which starts the parts and tells of them (about 1 minute the first time)"; } \
	&& $(CARGO) build --locked --workspace --bin $(1)
RELEASE = { [ -x "$(TARGET)/release/eventpulse" ] || echo "Building EventPulse (about 8 minutes the first time)"; } \
	&& $(CARGO) build --release --locked --bin eventpulse
# Both at once: what they need of EventPulse and its dependencies is the same, and is built once.
FAULTS = { [ -x "$(TARGET)/release/eventpulse-chaos" ] || echo "Building the simulator and its like (about 8 minutes the first time)"; } \
	&& $(CARGO) build --release --locked --package eventpulse-simulation --package eventpulse-chaos
# After `$(call build,eventpulse-env)`.
ENV := "$(TARGET)/debug/eventpulse-env"
# $(call timed,WHAT,COMMANDS): says how long they took, also when they fail; on standard error, so that the commands' own last line is the last.
timed = start=$$(date +%s); { $(2); }; code=$$?; took=$$(( $$(date +%s) - start )); \
	if [ $$code -eq 0 ]; then echo "$(1): done in $$took s"; else echo "$(1): failed after $$took s"; fi >&2; exit $$code
# Versions and disk, with a remedy for each thing that is missing.
CHECK := sh dev/env/check-machine.sh --if-missing
CONTROL_PLANE := kubernetes kwok
MONITORING := alertmanager prometheus otelcol
MAIL := mailpit
INSTALL := helm image
# For `make demo`: KEEP=1 leaves everything running, BUS=kafka uses a broker instead of the embedded log. A typo is found at once,
# not after twenty minutes of building.
KEEP ?=
BUS ?= embedded

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: ## Does this machine have what the rest needs?
	@$(CHECK) rust $(CONTROL_PLANE) kafka $(MONITORING) $(MAIL) $(INSTALL)

demo: ## The main job on a real control plane: an alert comes in, a Deployment is scaled, the incident is resolved
	@case "$(BUS)" in embedded|kafka) ;; *) echo "BUS=$(BUS): it is embedded or kafka" >&2; exit 2 ;; esac
	@case "$(KEEP)" in ''|0|1) ;; *) echo "KEEP=$(KEEP): it is 1 or 0" >&2; exit 2 ;; esac
	@$(call timed,make demo,$(CHECK) rust $(CONTROL_PLANE) $(filter kafka,$(BUS)) \
	  && $(RELEASE) && $(call build,eventpulse-demo) \
	  && "$(TARGET)/debug/eventpulse-demo" --bus $(BUS) $(if $(filter 1,$(KEEP)),--keep))

# Options of `make bench`: ONLY=react,idle (the list is in `make bench LIST=1`), QUICK=1, BUS=kafka, embedded or both, FSYNC=1 for etcd
# that writes to disk, PROFILE=DIR for perf, OUT=DIR for the results, REPORT=1 to write README.md anew and run nothing.
# BUS has a default for the demo; here only one that was given counts.
BENCH_BUS := $(if $(filter undefined file,$(origin BUS)),,$(BUS))
BENCH_ARGS = $(if $(ONLY),--only $(ONLY)) $(if $(BENCH_BUS),--bus $(BENCH_BUS)) $(if $(filter 1,$(QUICK)),--quick) \
	$(if $(filter 1,$(FSYNC)),--etcd-fsync) $(if $(filter 1,$(LIST)),--list) $(if $(filter 1,$(REPORT)),--report) \
	$(if $(PROFILE),--profile "$(call absolute,$(PROFILE))") $(if $(OUT),--out "$(call absolute,$(OUT))")
comma := ,

bench: ## Measure it on real parts, about two hours in all (ONLY=react,idle QUICK=1 BUS=kafka FSYNC=1 PROFILE=DIR OUT=DIR; LIST=1 lists)
	@case "$(BENCH_BUS)" in ''|embedded|kafka|both) ;; *) \
	  echo "BUS=$(BUS): it is kafka, embedded or both" >&2; exit 2 ;; esac
	@for switch in "QUICK=$(QUICK)" "FSYNC=$(FSYNC)" "LIST=$(LIST)" "REPORT=$(REPORT)"; do \
	  case "$$switch" in *=|*=0|*=1) ;; *) echo "$$switch: it is 1 or 0" >&2; exit 2 ;; esac; done
	@for name in $(subst $(comma), ,$(ONLY)); do grep -Eq "(^ *|scenario\()\"$$name\"," dev/bench/src/scenarios/mod.rs || { \
	  echo "ONLY=$(ONLY): there is no scenario $$name; make bench LIST=1 lists them" >&2; exit 2; }; done
	@$(call timed,make bench,$(CHECK) rust $(CONTROL_PLANE) $(if $(filter embedded,$(BENCH_BUS)),,kafka) \
	  && $(RELEASE) && $(CARGO) build --release --locked --package eventpulse-bench-probe \
	  && $(CARGO) build --release --locked --package eventpulse-bench \
	  && $(TARGET)/release/eventpulse-bench $(BENCH_ARGS))

# Of `make fuzz`. TARGET is a directory here unless it was given on the command line.
SECONDS ?= 60
FUZZ_TARGET := $(if $(filter command,$(origin TARGET)),$(TARGET))

fuzz: ## Look for inputs that break what must hold, all targets or one (TARGET=matchers SECONDS=60); docs/fuzzing.md
	@$(call timed,make fuzz,sh dev/fuzzing/fuzz.sh run "$(SECONDS)" $(FUZZ_TARGET))

fuzz-keep: ## Take into fuzz/corpus what the fuzzers have found that reaches further (TARGET=matchers)
	@sh dev/fuzzing/fuzz.sh keep $(FUZZ_TARGET)

# 1 where no mount namespace is allowed: there `make test` does without the fault that needs one, and its last lines say so.
REFUSED = $(shell unshare --mount --map-root-user true 2>/dev/null && echo 0 || echo 1)
# The last lines tell how long each step took, also when one fails.
STEPS = check format lint env-tools unit simulate mutants end-to-end 'chaos SHORT=1 LEFT_OUT=$(REFUSED)'
test: ## Everything CI runs
	@$(call timed,make test,took=; for step in $(STEPS); do \
	    began=$$(date +%s); $(MAKE) --no-print-directory $$step; ended=$$?; \
	    took="$$took$$(printf '\n  %-10s %5d s' "$${step%% *}" $$(( $$(date +%s) - began )))"; \
	    [ $$ended -eq 0 ] || break; \
	  done; echo "$$took"; [ $$ended -eq 0 ])

format: ## Is everything formatted?
	$(CARGO) fmt --all --check

lint: ## Clippy, with warnings denied
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit: ## Unit, property, contract, drift, boundary and API server tests, and the fuzzers' corpora
	$(CARGO) test --workspace --locked --lib --bins
	$(CARGO) test --workspace --locked --exclude eventpulse-demo --exclude eventpulse-e2e --test '*'

# How many histories, and how many of one mutant at most.
SEEDS ?= 2000
simulate: ## Histories of failures that seeds decide, judged by the promises (SEEDS=20000; SEED=4711 tells one line by line)
	@$(call timed,make simulate,$(FAULTS) \
	  && $(TARGET)/release/eventpulse-simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)))

mutants: ## Sabotages of the guards, one after the other, and the history that notices each (MUTANT=RingOfOne)
	@$(call timed,make mutants,$(FAULTS) \
	  && $(TARGET)/release/eventpulse-simulation --mutants $(if $(MUTANT),--mutant $(MUTANT)))

# Of `make chaos`: FAULT=kill,api-503 (LIST=1 lists them), BUS=kafka or embedded, SHORT=1, CHAOS_SEED=4711, LEFT_OUT=1: what this machine
# does not allow fails no run.
CHAOS_BUS := $(if $(filter undefined file,$(origin BUS)),,$(filter-out both,$(BUS)))
CHAOS_ARGS = $(if $(FAULT),--only $(FAULT)) $(if $(CHAOS_BUS),--bus $(CHAOS_BUS)) $(if $(filter 1,$(SHORT)),--short) \
	$(if $(filter 1,$(LIST)),--list) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED)) $(if $(filter 1,$(LEFT_OUT)),--allow-left-out)
chaos: ## Real processes are killed, frozen and cut off under load, and an oracle counts, about 90 minutes (FAULT=kill BUS=kafka SHORT=1; LIST=1 lists)
	@$(call timed,make chaos,$(CHECK) rust $(CONTROL_PLANE) kafka \
	  && $(RELEASE) && $(FAULTS) && $(TARGET)/release/eventpulse-chaos $(CHAOS_ARGS))

end-to-end: release ## The release binary as processes of its own, on real parts; then the demo
	$(CARGO) test --workspace --locked --test end_to_end -- --nocapture --test-threads=2
	$(CARGO) test --workspace --locked --test demo -- --test-threads=2

release: ## Build target/release/eventpulse
	@$(RELEASE)

image: release ## The container image, without a daemon: target/image/oci, and an archive to push or to load
	@$(CHECK) image
	@$(call build,eventpulse-env)
	@$(ENV) image --binary "$(TARGET)/release/eventpulse" --out "$(TARGET)/image"

generate: ## Write the generated files: CRDs and their chart, event schemas and examples, the list of metrics
	$(CARGO) run --quiet --locked --bin eventpulse -- generate .

env-tools: ## Build the control plane, kwok, Kafka, Alertmanager, Prometheus, the OpenTelemetry Collector, Mailpit, Helm and the image's tools into the cache
	@$(CHECK) rust $(CONTROL_PLANE) kafka $(MONITORING) $(MAIL) $(INSTALL)
	@$(call build,eventpulse-env)
	$(ENV) tools

env-up: ## Start a real control plane that goes on running (ARGS="--name N --kafka --alertmanager --prometheus --otelcol --mail")
	@$(CHECK) rust $(CONTROL_PLANE) $(patsubst --%,%,$(filter --kafka --alertmanager --prometheus --otelcol,$(ARGS))) $(if $(filter --mail,$(ARGS)),$(MAIL))
	@$(call build,eventpulse-env)
	$(ENV) up $(ARGS)

env-down: ## Stop it by the pids that were recorded (ARGS="--name demo" after make demo KEEP=1)
	@$(call build,eventpulse-env)
	$(ENV) down $(ARGS)
