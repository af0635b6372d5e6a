# make demo   see a conversation stream through a real browser
# make test   everything that must hold
# make bench  measure it, against floors measured in the same run
#
# Each installs what is missing first (Debian and Ubuntu; elsewhere it says what to install).

CARGO ?= cargo

.PHONY: demo test bench deps deps-test lint

demo: deps
	$(CARGO) run --release --locked --quiet -- demo $(ARGS)

test: deps-test lint
	$(CARGO) test --locked

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items --quiet

bench: deps
	$(CARGO) bench --locked --bench stream -- $(ARGS)

deps:
	@scripts/deps.sh

deps-test:
	@scripts/deps.sh nginx
