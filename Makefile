# One line behind `##` is what `make help` shows.
CARGO ?= cargo
.DEFAULT_GOAL := help
.PHONY: help bench demo test test-node image run crds manifests lint fmt tools

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: tools ## Watch it work on a real Kubernetes API and a real Prefect; stays until Ctrl-C (ONCE=1: ends by itself)
	$(CARGO) build --locked
	ONCE=$(ONCE) $(CARGO) run --locked --quiet --example demo

test: tools ## Run all tests, on the real parts
	$(CARGO) build --locked
	$(CARGO) test --locked --doc
	RUST_TEST_THREADS=6 $(CARGO) test --locked --all-targets

# The packages are looked for first, as they are what may be missing; all is built outside of the node, which has no network.
test-node: ## Run the operator's image, chart and a Prefect worker on a real node (Linux, root, Debian packages; 2 minutes)
	@bash tests/node/tools.sh
	@bash tests/tools.sh
	@bash deploy/image/build.sh
	$(CARGO) test --locked --no-run --test node
	@bash tests/node/with-node.sh $(CARGO) test --locked --offline --test node

image: ## Build the operator's image into target/image (the Debian package buildah; no registry, no daemon)
	@bash deploy/image/build.sh

bench: tools ## Measure what many objects cost, as tests/bench/README.md says (SIZES=1000,10000; about 25 minutes)
	$(CARGO) build --release --locked --bin prefect-sync --example bench
	SIZES=$(SIZES) $(CARGO) run --release --locked --quiet --example bench

run: ## Run the operator against the cluster of the current kubeconfig
	$(CARGO) run --locked -- run

crds: ## Generate crds/ and the chart's copies from the Rust types
	$(CARGO) run --locked -- crds --output crds
	rm -f deploy/helm/prefect-sync/files/crds/*.yaml
	cp crds/*.yaml deploy/helm/prefect-sync/files/crds/

manifests: tools ## Render deploy/manifests/ from the Helm chart
	bash deploy/render.sh

lint: ## Check the formatting, clippy and the docs; warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --test node -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --quiet

fmt: ## Format the code
	$(CARGO) fmt

tools: ## Install what tests and demo run against into target/tools (first time: about 5 minutes)
	@bash tests/tools.sh
