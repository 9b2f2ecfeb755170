# `make help` explains every target.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Major version of Postgres for the integration tests and for a new stack, 14 to 18.
export POSTGRES_VERSION ?= 18

.PHONY: help
help: ## Show this
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  %-23s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Build and check
.PHONY: build release lint fmt doc check clean prerequisites
prerequisites: ## Say what is missing on this machine, and how to install it
	@scripts/prerequisites

build: ## Build the debug binary
	$(CARGO) build --locked

release: ## Build the release binary, target/release/txstream
	$(CARGO) build --locked --release

lint: ## Clippy, every warning an error
	$(CARGO) clippy --locked --all-targets -- -D warnings

fmt: ## Format the code
	$(CARGO) fmt

doc: ## Build the documentation of the crate, every warning an error
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

check: ## Everything that a change must pass (.ci/run)
	.ci/run

clean: ## Delete what was built; the stack and the downloads stay
	$(CARGO) clean

##@ Test
.PHONY: test test-unit test-integration crash-test rolling-restart outage idle parking big-transaction fast-shutdown fuzz mutants test-oldest test-matrix servers
test: servers ## All tests; fetches a real Postgres and Kafka on first use (POSTGRES_VERSION=14 for another)
	$(CARGO) test --locked

test-unit: ## Tests that need no server
	$(CARGO) test --locked --lib --bins

test-integration: servers ## Tests against the real Postgres and Kafka
	$(CARGO) test --locked --test it

crash-test: servers ## Kill the relay a thousand times at seeded moments and judge (CRASH_KILLS, CRASH_SECONDS, CRASH_SEED)
	[ -n "$${CRASH_SECONDS:-}" ] || export CRASH_KILLS=$${CRASH_KILLS:-1000}; $(CARGO) test --locked --test it crash:: -- --nocapture

rolling-restart: servers ## Hand the slot from relay to relay a hundred times under load (ROLLING_RESTARTS)
	ROLLING_RESTARTS=$${ROLLING_RESTARTS:-100} $(CARGO) test --locked --test it rolling_restarts -- --nocapture

outage: servers ## Kafka frozen for half an hour (OUTAGE_SECONDS); seconds in an ordinary run
	OUTAGE_SECONDS=$${OUTAGE_SECONDS:-1800} $(CARGO) test --locked --test it while_kafka_is_frozen -- --nocapture

idle: servers ## Nothing to say for half an hour (IDLE_SECONDS), and no false alarm; seconds in an ordinary run
	IDLE_SECONDS=$${IDLE_SECONDS:-1800} $(CARGO) test --locked --test it a_session_with_nothing_to_say -- --nocapture

parking: servers ## Records that Kafka never takes, for a minute (PARKING_SECONDS); seconds in an ordinary run
	PARKING_SECONDS=$${PARKING_SECONDS:-60} $(CARGO) test --locked --test it keys_parked_at_a_steady_rate -- --nocapture

big-transaction: servers ## One transaction of five million rows through the release binary (BIG_ROWS); 300,000 in an ordinary run
	$(CARGO) build --locked --release --bin txstream
	BIG_ROWS=$${BIG_ROWS:-5000000} TXSTREAM_BINARY=$(CURDIR)/target/release/txstream \
	  $(CARGO) test --locked --test it a_huge_transaction -- --nocapture

fast-shutdown: servers ## pg_ctl stop -m fast with a gigabyte to send and Kafka frozen (BACKLOG_ROWS of 1 KB); 40 MB in an ordinary run
	BACKLOG_ROWS=$${BACKLOG_ROWS:-1000000} $(CARGO) test --locked --test it a_fast_shutdown -- --nocapture

fuzz: ## Hostile bytes for every parser, FUZZ_SECONDS each; wants cargo-fuzz
	@scripts/fuzz

mutants: servers ## Plant a bug for each invariant and demand that a test sees it
	@scripts/mutants

test-oldest: ## What depends on the version of Postgres most, on the oldest that is supported
	$(MAKE) servers POSTGRES_VERSION=14
	POSTGRES_VERSION=14 $(CARGO) test --locked --test it -- delivery:: slot:: migrate::

test-matrix: ## The integration tests on every supported Postgres
	for version in 14 15 16 17 18; do $(MAKE) test-integration POSTGRES_VERSION=$$version; done

servers: ## Fetch the servers that the tests run
	@scripts/fetch-postgres $(POSTGRES_VERSION) >/dev/null
	@scripts/fetch-kafka >/dev/null
	@scripts/fetch-prometheus >/dev/null

##@ Try
.PHONY: demo bench stack-up stack-down stack-reset migrate migrate-down run-relay run-worker run-api
demo: prerequisites servers ## Postgres, Kafka and a relay: events in, records out, a crash in between
	$(CARGO) build --locked --release --bin txstream --example demo
	target/release/examples/demo

bench: prerequisites servers ## Drain a backlog beside pg_recvlogical, measure latency; the writer beside pgbench
	$(CARGO) bench --locked --bench drain
	$(CARGO) bench --locked --bench writer

stack-up: ## Start a Postgres and a Kafka that stay up (no Docker)
	@scripts/stack up --version $(POSTGRES_VERSION)

stack-down: ## Stop them; the data stays
	@scripts/stack down

stack-reset: ## Stop them and delete their data
	@scripts/stack reset

migrate: ## Create tables and publication in the stack, or in DATABASE_URL
	scripts/stack exec $(CARGO) run --locked -- migrate up

migrate-down: ## Undo that
	scripts/stack exec $(CARGO) run --locked -- migrate down

run-relay: ## Run the relay against the stack, or DATABASE_URL and KAFKA_BROKERS
	scripts/stack exec $(CARGO) run --locked -- relay --create-slot

run-worker: run-relay ## The same, by the name it had in the polling ancestor

run-api: ## Run the writer, the HTTP service, against the stack or DATABASE_URL
	scripts/stack exec $(CARGO) run --locked -- writer

##@ Docker and deployment
.PHONY: docker-build docker-run check-deploy
# What the images' txstream_build_info says; the context of a build has no .git.
TXSTREAM_REVISION ?= $(shell git describe --always --dirty 2>/dev/null)

docker-run: ## Start Postgres, Kafka, relay, writer, Prometheus and Grafana in containers
	TXSTREAM_REVISION=$(TXSTREAM_REVISION) docker compose up --build

check-deploy: ## Check compose file, image, manifests and systemd unit without an engine
	@scripts/check-deploy

docker-build: ## Build the image txstream:latest
	docker build -f docker/Dockerfile --build-arg TXSTREAM_REVISION=$(TXSTREAM_REVISION) -t txstream:latest .
