# SPDX-License-Identifier: MIT
# A thin front for the CMake presets. `make demo` and `make test` install what is missing first.
#   make            release build           build/release/virnucpro
#   make demo       real sequences through the whole program
#   make test       dev build, all tests; closes with "N passed, N failed, N skipped"
#   make valgrind   the test programs under valgrind: minutes; TESTS="pool worker" picks some
#   make install    PREFIX=/usr/local, DESTDIR honoured
#   make bench      every bench program (see bench/)
#   make cuda       release build with the CUDA plug-in (needs nvcc)
#   make install-cuda   that build, instead of `make install`
PREFIX ?= /usr/local
export PATH := $(CURDIR)/.venv/bin:$(PATH)
TESTS ?=

.PHONY: all deps build-% demo test valgrind install install-cuda bench cuda format clean

all: build-release

deps:
	@tools/install-deps test

build-%:
	@[ -f build/$*/build.ninja ] || { mkdir -p build; cmake --preset $* >build/$*.log 2>&1; } || { cat build/$*.log; exit 1; }; \
	cmake --build --preset $*

demo: deps
	@$(MAKE) --no-print-directory build-release
	@tools/demo build/release/virnucpro

test: deps
	@$(MAKE) --no-print-directory build-dev
	@tools/run-tests build/dev $(TESTS)

valgrind:
	@tools/install-deps valgrind
	@$(MAKE) --no-print-directory build-dev
	@tools/run-valgrind build/dev $(TESTS)

install: build-release
	@cmake --install build/release --prefix "$(PREFIX)"

install-cuda: build-cuda
	@cmake --install build/cuda --prefix "$(PREFIX)"

bench: build-release
	@for b in build/release/bench/bench_*; do [ ! -x "$$b" ] || { echo "== $$b"; "$$b" || exit 1; }; done
	@build/release/virnucpro bench host && build/release/virnucpro bench pack

cuda: build-cuda

format:
	@tools/check-format --fix

clean:
	rm -rf build
