# make demo   see a conversation stream through a real browser
# make test   everything that must hold
# make bench  measure it, against floors measured in the same run
# make soak   ten minutes of random faults under load; nothing may be lost (ARGS="--minutes 2 --faults kill-browser")
# make bench-scale   several instances and browsers, nginx and Redis: what each gives and costs, and the sizing
# make soak-scale    three instances, one Redis and one nginx under load, each killed in turn (ARGS="--instances 2")
# make test-docker   the image and the compose files on a Docker engine of its own (root; a quarter of an hour)
# make fuzz   the parsers of foreign bytes, SECONDS=60 each
#
# Each installs what is missing first (Debian and Ubuntu; elsewhere it says what to install).

CARGO ?= cargo

.PHONY: demo test test-docker bench bench-scale soak soak-scale deps deps-test deps-scale lint

demo: deps
	$(CARGO) run --release --locked --quiet -- demo $(ARGS)

# Each test has a browser of its own, which keeps more than one core busy.
RUST_TEST_THREADS ?= $(shell expr \( $$(nproc) + 1 \) / 2)

test: deps-test lint
	RUST_TEST_THREADS=$(RUST_TEST_THREADS) $(CARGO) test --locked

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items --quiet

bench: deps
	$(CARGO) bench --locked --bench stream -- $(ARGS)

bench-scale: deps-scale
	$(CARGO) bench --locked --bench scale -- $(ARGS)

test-docker:
	tests/docker/run.sh

# The last --minutes counts.
soak: deps
	$(CARGO) test --release --locked --test soak -- --minutes 10 $(ARGS)

# The last --instances counts too.
soak-scale: deps-scale
	$(CARGO) test --release --locked --test soak -- --instances 3 --minutes 5 $(ARGS)

deps:
	@scripts/deps.sh

deps-scale:
	@scripts/deps.sh nginx redis

deps-test:
	@scripts/deps.sh nginx redis systemd xvfb node python kustomize

# The parsers of foreign bytes against libFuzzer, each for SECONDS; needs `rustup toolchain install nightly`
# and `cargo install cargo-fuzz`.
SECONDS ?= 60
FUZZ_TARGETS = frame path guard headers config challenge conversation openai

.PHONY: fuzz
fuzz:
	@for target in $(FUZZ_TARGETS); do \
	  $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(SECONDS) -timeout=10 || exit 1; \
	done
