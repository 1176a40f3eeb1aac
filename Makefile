# make demo    train on real digits, then plot and tabulate the comparison
# make test    run every check that a change must pass, quick ones first; about 45 minutes on two cores
# make test-full    make test with more random configurations and longer fuzzing, an hour more: before a change of the core is done
# make fuzz    test random states and arguments for FUZZ_SECONDS each, with FUZZ_SEED
# make bench-quick   run a short form of the benchmarks, in two minutes
# make bench   run the benchmarks, up to an hour on two cores with every rival; writes benchmarks/results/full.json and .html (BENCH_RESULTS=name: another name)
# make bench-peers   install the rivals that `make bench` races; those that are not installed are left out
# make docs    build the documentation as a site, in build/docs; warnings are errors
# make lint | types | docs | cpp-test | kernels-test | fuzz | package-test   run one part of `make test`
# make py-test   run all tests in Python on the package in .venv; `make test` runs them on a wheel
# make cross   build the core for other processors, test it in QEMU, and check the size of small builds; some minutes for each target
#              (CROSS_TARGETS="aarch64 armv7": only those)
# make cortex-m   make cross for microcontrollers: Cortex-M4 and M7, without an operating system
# make other-systems   compile the core for macOS and Windows
# make test-aarch64   run the tests of NumPy batches on an emulated 64-bit ARM machine; as root, half an hour
# make test-free-threading   run them on a free-threaded Python, in four threads at once; five minutes (FREE_THREADED_PYTHON=python3.13t: another one)
# make wheels   build wheels that need no compiler, for each python3.x on the PATH, x86_64 and aarch64, glibc and musl, into build/wheels-for-all/dist
# make cuda-build   build the CUDA kernels for every architecture; print registers, shared memory and spills of each (needs nvcc)
# make gpu-check    gpu-build and gpu-run, in at most 8 minutes; without a network, with the packages of PYTHON
# make gpu-build    build the package for the GPU of this machine into build/gpu/site (GPU_ARCH=90-real: for another GPU)
# make gpu-run      run the tests and benchmarks that need a GPU, then some tests under compute-sanitizer; all run, even if one fails.
#                   The log and the figures go to build/gpu/results (GPU_RESULTS=folder: another folder)
# make build   build the package and install it into .venv
# make amalgamation   write the whole library as build/amalgamation/l2m.h and l2m.cpp, two files to copy
# make format  format the code, and apply the automatic fixes of the linters
# make clean   remove everything that was built; .venv is kept
#
# The first run creates .venv. PYTHON=python3.12 selects the interpreter for it; WERROR=ON makes compiler warnings errors.

PYTHON ?= python3
WERROR ?= OFF

GPU_SITE := build/gpu/site
GPU_RESULTS ?= build/gpu/results
# Only machine code for the devices of this machine, such as 90-real for compute capability 9.0.
GPU_ARCH ?= $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | \
                    sed -n 's/^\([0-9]*\)\.\([0-9]\)$$/\1\2-real/p' | sort -u | paste -sd ';')
GPU_CMAKE = $(or $(shell command -v cmake),$(PYTHON) -m cmake)
BENCH_RESULTS ?= full
FUZZ_SECONDS ?= 60
CROSS_TARGETS ?= aarch64 armv7 riscv64 i686 musl-x86_64 musl-aarch64 edge-aarch64 edge-armv7 edge-musl-armv7
FUZZ_SEED ?= 0

BIN := .venv/bin
PACKAGE := .venv/.package-werror-$(WERROR)
EXPERIMENTS := .venv/.experiments
TESTING := build/testing/.built
# Folders are included because they change when a file is removed.
PACKAGE_SOURCES := CMakeLists.txt pyproject.toml README.md LICENSE \
                   $(shell find cpp/include cpp/src cpp/c cpp/cuda cpp/bindings python -not -name '*.pyc' -not -name __pycache__)
CPP_FILES = $(shell find cpp benchmarks examples -name '*.[ch]' -o -name '*.hpp' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
IN_PARALLEL := --numprocesses=auto --maxprocesses=8
# Sanitizers of older compilers fail in a fully randomized address space.
NO_ASLR := $(shell setarch -R true 2>/dev/null && echo setarch -R)

.PHONY: docs wheels cpp-test-edge cortex-m kernels-test test-full fuzz cross cross-packages other-systems test-aarch64 test-free-threading cuda-build gpu-check gpu-build gpu-run build demo test lint types cpp-test cpp-test-plain cpp-test-asan cpp-test-tsan py-test package-test bench bench-quick bench-peers format clean
.NOTPARALLEL:
.SILENT:

build: $(PACKAGE) $(EXPERIMENTS) $(TESTING)

demo: $(EXPERIMENTS)
	$(BIN)/l2m-experiments demo

test: lint types docs cpp-test kernels-test fuzz package-test

test-full: export L2M_EXAMPLES = 3000
test-full: FUZZ_SECONDS = 900
test-full: FUZZ_SEED := $(shell date +%s)
test-full: test other-systems

lint: .venv/.dev
	echo "== lint"
	$(BIN)/ruff format --quiet --check .
	$(BIN)/ruff check --quiet .
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)
	$(BIN)/codespell
	$(BIN)/pytest --quiet --no-header tests/test_language.py

types: .venv/.dev $(PACKAGE) $(EXPERIMENTS) $(TESTING)
	echo "== types"
	$(BIN)/mypy --no-error-summary
	MYPYPATH=python $(BIN)/stubtest --concise --mypy-config-file pyproject.toml l2m_fast._core
	MYPYPATH=tests PYTHONPATH=build/testing $(BIN)/stubtest --concise --mypy-config-file pyproject.toml _testing

docs: .venv/.docs $(PACKAGE)
	echo "== docs"
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env -b html docs build/docs

comma := ,
# Configure the C++ tests in build/$(1) with the sanitizers $(2).
configure_cpp_tests = $(BIN)/cmake -S . -B build/$(1) -G Ninja -D CMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja --log-level=WARNING \
    -D L2M_BUILD_TESTS=ON -D L2M_SANITIZE=$(2) -D L2M_WERROR=$(WERROR) $(PRESET) > /dev/null

cpp-test: cpp-test-plain cpp-test-edge cpp-test-asan cpp-test-tsan

cpp-test-edge: PRESET = --preset edge
cpp-test-asan: SANITIZE = address,undefined
cpp-test-tsan: SANITIZE = thread
cpp-test-plain cpp-test-edge cpp-test-asan cpp-test-tsan: cpp-test-%: .venv/.demo
	echo "== C++ tests: $*"
	$(call configure_cpp_tests,$*,$(SANITIZE))
	$(BIN)/cmake --build build/$* -- --quiet
	$(NO_ASLR) $(BIN)/ctest --test-dir build/$* --parallel $$(nproc) --no-tests=error --output-on-failure

# Debian packages of each target: its compiler and its emulator. zig, the compiler for musl, is on PyPI.
CROSS_PACKAGES_aarch64 := g++-aarch64-linux-gnu qemu-user
CROSS_PACKAGES_armv7 := g++-arm-linux-gnueabihf qemu-user
CROSS_PACKAGES_riscv64 := g++-riscv64-linux-gnu qemu-user
CROSS_PACKAGES_i686 := g++-i686-linux-gnu qemu-user
CROSS_PACKAGES_musl-x86_64 := qemu-user
CROSS_PACKAGES_musl-aarch64 := qemu-user
CROSS_PACKAGES_edge-aarch64 := $(CROSS_PACKAGES_aarch64)
CROSS_PACKAGES_edge-armv7 := $(CROSS_PACKAGES_armv7)
CROSS_PACKAGES_edge-musl-armv7 := $(CROSS_PACKAGES_armv7)
CROSS_PACKAGES_cortex-m4 := gcc-arm-none-eabi libstdc++-arm-none-eabi-newlib qemu-system-arm
CROSS_PACKAGES_cortex-m7 := $(CROSS_PACKAGES_cortex-m4)

# Small builds: prefix of the tools, and the arguments of cpp/tests/check_size.sh. They run only some of the tests.
SIZES_edge-aarch64 := aarch64-linux-gnu- 240000 315000
SIZES_edge-armv7 := arm-linux-gnueabihf- 155000 204800
SIZES_edge-musl-armv7 := arm-linux-gnueabihf- 385000 365000
SIZES_cortex-m4 := arm-none-eabi- 195000 204800
SIZES_cortex-m7 := arm-none-eabi- 195000 204800

SMALL_TESTS := size test_golden
cross-edge-%: SMALL_TESTS += example_train_c

cross-packages:
	echo $(sort $(foreach target,$(CROSS_TARGETS),$(CROSS_PACKAGES_$(target))))

cross: $(CROSS_TARGETS:%=cross-%)

cortex-m: cross-cortex-m4 cross-cortex-m7

cross-musl-x86_64 cross-musl-aarch64 cross-edge-musl-armv7: .venv/.cross
cross-%: .venv/.demo
	echo "== C++ tests: $* in QEMU"
	missing=$$(for package in $(CROSS_PACKAGES_$*); do dpkg-query --show $$package > /dev/null 2>&1 || echo $$package; done); \
	    test -z "$$missing" || { echo "cross: missing packages: apt-get install" $$missing >&2; exit 1; }
	export PATH=$(CURDIR)/$(BIN):$$PATH; \
	    cmake --preset $* --log-level=WARNING > /dev/null && \
	    cmake --build build/cross/$* $(if $(SIZES_$*),--target $(SMALL_TESTS)) -- --quiet && \
	    ctest --test-dir build/cross/$* $(if $(SIZES_$*),--tests-regex '^($(subst $() ,|,$(SMALL_TESTS)))$$') \
	        --parallel $$(nproc) --no-tests=error --output-on-failure
	$(if $(SIZES_$*),cpp/tests/check_size.sh build/cross/$* $(SIZES_$*))

OTHER_SYSTEMS := aarch64-macos x86_64-macos x86_64-windows-gnu
other-systems: $(OTHER_SYSTEMS:%=compile-for-%)

compile-for-%: amalgamation .venv/.cross
	echo "== core: $*"
	$(BIN)/python -m ziglang c++ -target $* -std=c++20 -O1 -Wall -Wextra -Werror -c build/amalgamation/l2m.cpp -o build/amalgamation/$*.o

test-aarch64: .venv/.wheels
	tests/package/aarch64.sh build/aarch64

FREE_THREADED_PYTHON ?= python3.14t
test-free-threading: .venv/.dev
	$(BIN)/python tests/package/free_threading.py build/free-threading $(FREE_THREADED_PYTHON)

wheels: .venv/.wheels
	$(BIN)/python tests/package/wheels.py build/wheels-for-all

cuda-build: .venv/.demo
	$(BIN)/cmake -S . -B build/cuda -G Ninja -D CMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -D L2M_CUDA=ON -D L2M_WERROR=ON
	$(BIN)/cmake --build build/cuda --clean-first --target l2m_cuda

gpu-check: gpu-build gpu-run

# Build the package as pip does, but without scikit-build-core, of which the machine may have too old a version.
gpu-build:
	test -n '$(GPU_ARCH)' || { echo "gpu-build: nvidia-smi finds no CUDA device; set GPU_ARCH to build for one (such as GPU_ARCH=90-real)" >&2; exit 1; }
	echo "== building l2m_fast for CUDA $(GPU_ARCH) into $(GPU_SITE); log: build/gpu/build.log"
	mkdir -p build/gpu
	{ $(GPU_CMAKE) -S . -B build/gpu/cmake -D SKBUILD=ON -D L2M_CUDA=ON -D CMAKE_CUDA_ARCHITECTURES='$(GPU_ARCH)' \
	      -D SKBUILD_PROJECT_VERSION_FULL=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
	      -D Python_EXECUTABLE=$$($(PYTHON) -c 'import sys; print(sys.executable)') \
	      -D pybind11_DIR=$$($(PYTHON) -m pybind11 --cmakedir) && \
	  timeout 120 $(GPU_CMAKE) --build build/gpu/cmake --parallel $$(nproc) && \
	  rm -rf $(GPU_SITE) && $(GPU_CMAKE) --install build/gpu/cmake --prefix $(GPU_SITE) && \
	  cp -R python/l2m_fast $(GPU_SITE); } > build/gpu/build.log 2>&1 || \
	{ code=$$?; tail -n 20 build/gpu/build.log; \
	  test $$code != 124 || echo "gpu-build: stopped after 120 s; the next one resumes there" >&2; exit 1; }

gpu-run:
	test -d $(GPU_SITE)/l2m_fast || { echo "gpu-run: run make gpu-build first" >&2; exit 1; }
	PYTHONPATH=$(CURDIR)/$(GPU_SITE):$(CURDIR)/experiments $(PYTHON) tests/gpu/check.py $(GPU_RESULTS)

# The tests for which it matters whether the package has CUDA kernels, as that of .venv has where there is a CUDA compiler.
kernels-test: .venv/.dev $(PACKAGE) $(EXPERIMENTS) $(TESTING)
	echo "== pytest, of what CUDA kernels affect"
	$(BIN)/pytest $(IN_PARALLEL) tests/losses tests/faults/test_cross_entropy.py tests/gpu tests/test_*.py

py-test: .venv/.dev $(PACKAGE) $(EXPERIMENTS) $(TESTING)
	echo "== pytest"
	$(BIN)/pytest $(IN_PARALLEL)

fuzz: .venv/.dev $(PACKAGE)
	for target in states arguments; do \
	    echo "== fuzz: $$target, seed $(FUZZ_SEED)"; \
	    (cd tests && $(CURDIR)/$(BIN)/python -m fuzz.$$target --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)) || exit 1; \
	done
	echo "== fuzz: states in C, seed $(FUZZ_SEED)"
	$(call configure_cpp_tests,asan,address$(comma)undefined)
	$(BIN)/cmake --build build/asan --target fuzz_states -- --quiet
	$(NO_ASLR) build/asan/fuzz_states $(FUZZ_SECONDS) $(FUZZ_SEED)

.PHONY: amalgamation
amalgamation:
	$(PYTHON) cpp/amalgamate.py build/amalgamation

# Test the installed library, and the wheels of the sdist in clean environments, then run every test on the wheel without CUDA kernels.
package-test: .venv/.dev $(EXPERIMENTS) $(TESTING)
	echo "== library"
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python tests/package/library.py build/library
	echo "== wheels"
	$(BIN)/python tests/package/check.py build/wheels
	rm -rf build/no-cuda
	$(BIN)/python -m pip install --quiet --no-deps --target build/no-cuda build/wheels/no-nvcc/*.whl
	echo "== pytest, without CUDA kernels"
	export PYTHONPATH=$(CURDIR)/build/no-cuda; \
	    $(BIN)/python -c 'import l2m_fast, sys; sys.exit(l2m_fast.build_info()["cuda_built"])' && $(BIN)/pytest $(IN_PARALLEL)

bench-quick: .venv/.dev $(EXPERIMENTS)
	$(BIN)/python -m benchmarks

bench: .venv/.dev $(EXPERIMENTS) $(TESTING)
	$(BIN)/pytest benchmarks/ --benchmark-only --results $(BENCH_RESULTS)

bench-peers: .venv/.dev $(EXPERIMENTS)
	$(BIN)/python -m benchmarks.install

format: .venv/.dev
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format --quiet .
	$(BIN)/clang-format -i $(CPP_FILES)

clean:
	rm -rf build dist .venv/.package-* .venv/.experiments .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "l2m_fast needs Python >= 3.10: make PYTHON=...")'
	$(PYTHON) -m venv .venv

.venv/.demo: requirements/demo.txt requirements/constraints.txt .venv/bin/python
	echo "== installing requirements/demo.txt into .venv: some minutes where torch has to be downloaded"
	$(BIN)/python -m pip install --quiet -r requirements/demo.txt
	touch $@

.venv/.cross: requirements/cross.txt .venv/.demo
	$(BIN)/python -m pip install --quiet -r requirements/cross.txt
	touch $@

.venv/.wheels: requirements/wheels.txt .venv/.dev
	$(BIN)/python -m pip install --quiet -r requirements/wheels.txt
	touch $@

.venv/.docs: requirements/docs.txt .venv/.dev
	$(BIN)/python -m pip install --quiet -r requirements/docs.txt
	touch $@

.venv/.dev: requirements/dev.txt .venv/.demo
	echo "== installing requirements/dev.txt into .venv"
	$(BIN)/python -m pip install --quiet -r requirements/dev.txt
	touch $@

# What tests load that is not part of the package: the module _testing, the C API as a shared library, and the example in C.
$(TESTING): $(PACKAGE_SOURCES) cpp/bindings/testing/module.cpp examples/c/train.c .venv/.demo
	echo "== building the testing module"
	$(BIN)/cmake -S . -B build/testing -G Ninja -D CMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja --log-level=WARNING \
	    -D L2M_TESTING_MODULE=ON -D L2M_WERROR=$(WERROR) -D Python_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	    -D pybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > /dev/null
	$(BIN)/cmake --build build/testing -- --quiet
	touch $@

$(EXPERIMENTS): $(PACKAGE) experiments/pyproject.toml $(shell find experiments/l2m_experiments -name '*.py')
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps ./experiments
	touch $@

# Not editable, so that the tests see what users install. The build folder is kept, so that only changed files are compiled.
$(PACKAGE): $(PACKAGE_SOURCES) .venv/.demo
	echo "== building l2m_fast"
	SKBUILD_BUILD_DIR='build/{wheel_tag}' SKBUILD_CMAKE_DEFINE=L2M_WERROR=$(WERROR) \
	    $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps .
	touch $@
