# The commands of this project. Each installs what is missing first (scripts/setup) and builds what is stale.
.PHONY: help build everything demo check check-plan check-python check-sglang check-cuda bench-cpu cycles lint format asan tsan fuzz clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# Once a build folder has kernels for all devices, it keeps them.
quiet := $(if $(V),,--log-level=WARNING)
kernels_here = $(if $(wildcard build/CMakeCache.txt),,-DMIXCOMM_CUDA_ARCHITECTURES=present)

build: ## set up and build the library and the command into build/, for the devices that are here
	@scripts/setup
	@cmake --preset default $(quiet) $(kernels_here)
	@cmake --build --preset default --target mixcomm_tool

everything: ## the same with the tests, and with the CUDA kernels for all devices
	@scripts/setup
	@cmake --preset default $(quiet) -DMIXCOMM_CUDA_ARCHITECTURES=all
	@cmake --build --preset default

demo: ## decode word problems on many rank layouts; composed against fused. Builds what that needs, half of 'make build'
	@scripts/setup
	@cmake --preset default $(quiet) $(kernels_here)
	@cmake --build --preset default --target mixcomm_demo
	@build/tools/mixcomm-demo demo --json build/demo.json

check: everything ## every test but those on a GPU, the Python package, the library's under ThreadSanitizer, and seconds of fuzzing
	@ctest --preset default --progress --label-exclude cuda
	@$(MAKE) --no-print-directory check-python
	@$(MAKE) --no-print-directory tsan
	@scripts/fuzz --seconds 3
	@scripts/check-cuda --status
	@scripts/check-sglang --status

check-plan: build ## the whole of the planner's checks, some minutes; 'make check' runs a part of them
	@build/tools/mixcomm check --plan

check-python: ## pip install, the Python tests and examples; with PyTorch where build/python-env has it
	@scripts/setup
	@scripts/check-python -q
	@scripts/check-wheel

check-sglang: ## the plug-in against the real SGLang on the CPU; makes an environment of 6 GB first, so not in make check
	@scripts/check-sglang

check-cuda: everything ## every test on a GPU, 100,000 random operations, compute-sanitizer, the Python package
	@scripts/check-cuda

bench-cpu: ## the CPU backend against Open MPI and MPICH, into bench/results/; some minutes
	@scripts/setup --mpi
	@cmake --preset default $(quiet) $(kernels_here)
	@cmake --build --preset default --target mixcomm_tool
	@scripts/bench-cpu

tsan: ## the collectives' tests under ThreadSanitizer, into build-tsan/
	@scripts/setup
	@cmake --preset tsan $(quiet)
	@cmake --build --preset tsan
	@ctest --preset tsan --progress

asan: ## all tests under AddressSanitizer and UndefinedBehaviorSanitizer, into build-asan/
	@scripts/setup
	@cmake --preset asan $(quiet)
	@cmake --build --preset asan
	@ctest --preset asan --progress

cycles: everything ## the long versions of what is short in check: 10,000 communicators, 25 kills of each rank
	@MIXCOMM_CYCLES=10000 build/tests/cycles_test --gtest_brief=1
	@MIXCOMM_KILLS=25 build/tests/lost_ranks_test --gtest_brief=1 --gtest_filter='KilledRanks.*AtOnce'

fuzz: ## libFuzzer's targets, ten minutes each (clang), into build-fuzz/
	@scripts/setup
	@scripts/fuzz

lint: everything ## clang-format, clang-tidy and ruff, none of which may find anything
	@scripts/lint

format: ## lay out all sources
	@scripts/lint --fix

clean: ## remove all builds
	@rm -rf build build-tsan build-asan build-fuzz
