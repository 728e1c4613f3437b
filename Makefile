# Two commands matter: `make demo` runs Lockstep with something to look at, `make test` passes every test there is.

CARGO ?= cargo

.PHONY: demo build test tools lint unit bench fuzz

demo: build ## Two linked sites with generated inventories that keep changing.
	target/release/lockstep demo

build:
	$(CARGO) build --release

test: tools lint unit ## All that CI runs.

tools: ## What the tests need besides Rust, into .tools and through the system's packages.
	scripts/test-tools.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

unit:
	$(CARGO) build
	$(CARGO) test --workspace

bench: ## The comparison of docs/benchmarks.md; takes a while.
	$(CARGO) build --release -p lockstep -p lockstep-bench
	target/release/lockstep-bench --help

FUZZ_SECONDS ?= 60

fuzz: ## What parses bytes of others, fed with made-up ones; needs cargo-fuzz.
	for target in $$(cargo fuzz list); do RUSTC_BOOTSTRAP=1 cargo fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; done
