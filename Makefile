# The recipes that .ci/run and the README use. `make test` installs what it needs.

CARGO ?= cargo
export KAS_TEST_CACHE ?= $(HOME)/.cache/kas-tests
# Errors say what happened; where their code was is noise in a test's report.
export RUST_LIB_BACKTRACE = 0

# Test programs that start a real Kubernetes, or run its kubectl.
KUBERNETES_TESTS = kubectl_suite api_server watch clients graph flux events oidc receptive receptive_pods gitlab_set admin up request_id \
	streams demo_cluster_kubectl

.PHONY: up test setup build reference book docs-test packages packages-test dist dist-test workflows charts lint fmt deps doc ci fuzz bench bench-compare sim e2e e2e-redis-outage e2e-streams e2e-swap test-clients test-watch-lists conformance test-engines image five-steps deploy-test test-kubernetes

up:
	$(CARGO) run --profile playground --bin kas -- up

setup:
	tests/setup/install
	tests/setup/clients

# All that the tests run, compiled once: with --tests Cargo chooses the same features as `cargo test` does.
build:
	$(CARGO) build --workspace --bins --tests

test: setup build
	$(CARGO) test --workspace --no-fail-fast --config 'target."cfg(unix)".runner = "tests/setup/limited"'

# Writes docs/reference anew from the code; the same test compares without UPDATE_REFERENCE.
reference: export UPDATE_REFERENCE = 1
reference:
	$(CARGO) build --workspace --bins --test reference
	$(CARGO) test --workspace --bins --test reference

# The book of all documents, in target/book/html, with its links looked at.
book: export PATH := $(KAS_TEST_CACHE)/tools/bin:$(PATH)
book:
	tests/setup/tools book
	docs/book/build

# The commands of all documents that are marked `sh run`, as they stand there, links and the reference; part of `make test` too.
docs-test:
	$(CARGO) build --workspace --bins --test documented --test documents --test reference
	$(CARGO) test --workspace --bins --test documented --test documents --test reference

fmt:
	$(CARGO) fmt --all --check

# The second line is the server as its image has it, without `kas up`. --examples is there for the same reason as --tests above.
lint: fmt
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --workspace --lib --bins --examples --no-default-features -- -D warnings

# Bans, licences and sources of dependencies (deny.toml), known vulnerabilities where their data base can be had, and
# dependencies that nobody uses.
deps: export PATH := $(KAS_TEST_CACHE)/tools/bin:$(PATH)
deps:
	tests/setup/tools
	$(CARGO) deny --log-level error check bans licenses sources
	tests/setup/advisories
	$(CARGO) shear --deny-warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --lib --examples

ci: lint deps test doc

# Looks for inputs that break a decoder, MINUTES for each: make fuzz MINUTES=10, or of some only: make fuzz TARGETS="jwt hpack".
MINUTES ?= 1
fuzz: export PATH := $(KAS_TEST_CACHE)/tools/bin:$(PATH)
fuzz: export MINUTES := $(MINUTES)
fuzz:
	tests/setup/tools fuzz
	tests/fuzz/run $(TARGETS)

# What requests and idle agents cost, then the small scenarios with their verdicts.
bench:
	benches/run
	benches/scenarios

# Ratios to GitLab's programs: make bench-compare GO_KAS=path GO_AGENTK=path
bench-compare: export GO_KAS := $(GO_KAS)
bench-compare: export GO_AGENTK := $(GO_AGENTK)
bench-compare:
	benches/compare

# Redis stopped for five minutes and 20 seconds, with new agents, then started empty.
e2e-redis-outage: export E2E_ONLY = Redis is stopped
e2e-redis-outage: export E2E_MINUTES = 5.7
e2e-redis-outage: e2e

# Ten minutes of faults on a release build; E2E_MINUTES, E2E_RATE and E2E_ONLY narrow it, and AGENTK_BIN
# makes a third of the agents that one.
e2e: export E2E_MINUTES ?= 10
e2e: export E2E_RATE ?= 200
e2e: CRATES := --package kas --package agentk --package loadtest --package tests
e2e: setup
	$(CARGO) build --release $(CRATES) --bins --test e2e
	$(CARGO) test --release $(CRATES) --test e2e

# Upgraded connections for ten minutes while owners die and connections are cut: STREAMS_SECONDS, STREAMS_EXECS (over each
# of two protocols) and STREAMS_MIB (through each of two ports, each way) change how long and how much.
e2e-streams: export STREAMS_SECONDS ?= 600
e2e-streams: export STREAMS_EXECS ?= 25
e2e-streams: export STREAMS_MIB ?= 1024
e2e-streams: setup
	$(CARGO) build --workspace --bins --test streams
	$(CARGO) test --workspace --bins --test streams -- --nocapture

# Three of GitLab's kas 16.5 give way to three of ours under load, one after the other:
# GO_KAS=path AGENTK_BIN=path make e2e-swap
e2e-swap: export GO_KAS := $(GO_KAS)
e2e-swap: export AGENTK_BIN := $(AGENTK_BIN)
e2e-swap: setup
	@test -x "$(GO_KAS)" || { echo "e2e-swap needs GitLab's kas 16.5: GO_KAS=/path/to/kas AGENTK_BIN=/path/to/agentk make e2e-swap"; exit 1; }
	$(CARGO) build --workspace --bins --test swap
	$(CARGO) test --workspace --test swap -- --test-threads 1

# SIM_SEEDS=n simulates so many seeds, SIM_SEED=n replays one and shows its trace. Of the whole workspace, as in `make test`, so
# that nothing is compiled a second time with other features.
SIM_SEEDS ?= 1000
sim: export SIM_SEEDS := $(SIM_SEEDS)
sim:
	$(CARGO) test --workspace --test sim -- --nocapture --test-threads 1

# Every client of docs/clients.md, which UPDATE=1 writes anew; Helm and older versions of kubectl are built first.
UPDATE ?= 0
test-clients: export UPDATE_CLIENTS := $(UPDATE)
test-clients:
	tests/setup/install
	tests/setup/clients all
	$(CARGO) build --workspace --bins --test clients
	$(CARGO) test --workspace --bins --test clients

# Watch-lists of 5,000 objects, 40 cuts at random moments in each form; WATCH_LIST_OBJECTS and WATCH_LIST_CUTS take others.
test-watch-lists: setup
	$(CARGO) build --workspace --bins --test watch
	$(CARGO) test --workspace --bins --test watch -- --ignored

# Kubernetes' own conformance tests, directly and through kas, as docs/conformance.md has it, which UPDATE=1 writes anew; hours.
# CONFORMANCE_GROUPS and CONFORMANCE_WAYS take a part of them (tests/tests/conformance). In namespaces of its own: Services need a
# network for themselves, and other clusters' ends take no pod's network away.
conformance: export UPDATE_CONFORMANCE := $(UPDATE)
conformance: setup
	tests/setup/conformance
	$(CARGO) build --workspace --bins --test conformance
	unshare --net --mount sh -c 'mount --make-rshared / && mkdir -p /run/netns && mount -t tmpfs netns /run/netns && \
	  exec $(CARGO) test --offline --workspace --bins --test conformance -- --ignored --nocapture'

# The routing store against the other engines that it is meant for.
test-engines: setup
	tests/setup/engines

# deb and rpm with SBOMs, a release note and checksums in target/packages, of the programs in the folder PROGRAMS.
PROGRAMS ?= target/release
packages: export PATH := $(KAS_TEST_CACHE)/tools/bin:$(PATH)
packages:
	tests/setup/tools packages
	deploy/packages/build $(PROGRAMS)

# The deb and the rpm of this machine's architecture in PACKAGES, in a bare Debian made by debootstrap; needs root.
PACKAGES ?= target/packages
packages-test: export PATH := $(KAS_TEST_CACHE)/tools/bin:$(PATH)
packages-test:
	tests/setup/tools packages-test
	deploy/packages/test $(PACKAGES)

# All of a release in target/dist, reproducibly: static programs, packages, images, charts, SBOMs, checksums, signatures
# (deploy/release/build says what can be given). make dist PROGRAMS=folder takes programs that are there.
dist: export PATH := $(KAS_TEST_CACHE)/tools/bin:$(PATH)
dist: export PROGRAMS := $(if $(filter-out file,$(origin PROGRAMS)),$(PROGRAMS))
dist:
	tests/setup/tools packages
	tests/setup/tools release
	$(if $(PROGRAMS),,tests/setup/tools cross)
	deploy/release/build

# The same twice, compared; signatures by keys made for the test; charts and images as others read them.
dist-test: export PATH := $(KAS_TEST_CACHE)/tools/bin:$(KAS_TEST_CACHE)/bin:$(PATH)
dist-test:
	tests/setup/tools packages
	tests/setup/tools release
	tests/setup/tools dist-test
	deploy/release/test $(PROGRAMS)

# The page of operators in Chromium, at the widths of a phone and of a desk, light and dark, with axe-core: with PAGE_AGENTS
# simulated agents on three replicas while loadtest breaks things, then that of `kas up`. Screenshots and reports go to
# target/reports/page; `make page-up` looks at `kas up` only.
PAGE_AGENTS ?= 10000
.PHONY: page-10000 page-up
page-10000 page-up: export PAGE_AGENTS := $(PAGE_AGENTS)
page-10000:
	$(CARGO) build --workspace --bins --tests
	tests/page/run
page-up:
	$(CARGO) build --workspace --bins --tests
	tests/page/run up

# What can be seen of the charts' files without helm and without a cluster.
charts:
	tests/setup/tools charts
	deploy/k8s/check-charts

# loadtest's report of a short run in which things break, and the book, in Chromium in the same way; the report also under the
# pointer and in print. Screenshots and PDFs go to target/reports/documents.
.PHONY: page-documents
page-documents: book
	$(CARGO) build --workspace --bins --tests
	tests/page/documents

# The files that GitLab CI and GitHub Actions read.
workflows: export PATH := $(KAS_TEST_CACHE)/tools/bin:$(PATH)
workflows:
	tests/setup/tools workflows
	deploy/release/check-workflows

# Static programs in OCI images, with SBOMs, in target/images.
image:
	deploy/images/build

# docs/install.md with a bare Kubernetes and the release in DIST=.
DIST ?= target/dist
five-steps:
	tests/setup/install deploy
	deploy/k8s/test-five-steps $(DIST)

# Both charts on real Kubernetes of these versions, each with a module folder in tests/setup: what the API server accepts,
# and the images of `make image` at work.
deploy-test: VERSIONS ?= v1.35.4 v1.36.3 v1.37.2
deploy-test: image
	for version in $(VERSIONS); do export KAS_TEST_KUBERNETES=$$version; \
	  tests/setup/install deploy && deploy/k8s/test-charts && HELM=helm4 deploy/k8s/test-charts offline && deploy/k8s/test-install || exit 1; done

# The tests that run on a real Kubernetes, on other versions than that of `make test` (tests/setup/kubernetes-version).
test-kubernetes: VERSIONS ?= v1.33.13 v1.34.4 v1.35.4 v1.36.3 v1.37.2
test-kubernetes:
	for version in $(VERSIONS); do export KAS_TEST_KUBERNETES=$$version; \
	  tests/setup/install && $(CARGO) test --workspace --no-fail-fast $(KUBERNETES_TESTS:%=--test %) || exit 1; done
