# make demo    the demo: trains on real digits, draws and tabulates the comparison
# make test    every check there is, the quick ones first
# make bench   the benchmarks, up to an hour on two cores with every rival; writes benchmarks/results/full.json and .html (BENCH_RESULTS=name: another name)
# make bench-peers   installs the rivals that `make bench` races; those that are not there are left out
# make lint | types | cpp-test | py-test | package-test   one part of `make test`
# make cuda-build   the CUDA kernels for every architecture: registers, shared memory and spills of each (needs nvcc)
# make gpu-check    builds with CUDA, runs the tests and benchmarks that need a GPU, and writes benchmarks/results/gpu.json;
#                   with the packages that PYTHON has, and without a network (GPU_RESULTS=name: another name)
# make build   the package, built and installed into .venv
# make format  formats the code and repairs what the linters can repair
# make clean   removes what was built; .venv stays
#
# The first run makes .venv. PYTHON=python3.12 picks the interpreter for it; WERROR=ON makes compiler warnings errors.

PYTHON ?= python3
WERROR ?= OFF

GPU_SITE := build/gpu/site
GPU_RUN := L2M_GPU_CHECK=1 PYTHONPATH=$(CURDIR)/$(GPU_SITE)
GPU_RESULTS ?= gpu
BENCH_RESULTS ?= full

BIN := .venv/bin
PACKAGE := .venv/.package-werror-$(WERROR)
TESTING := build/testing/.built
# Folders too: they change when a file is removed.
PACKAGE_SOURCES := CMakeLists.txt pyproject.toml README.md LICENSE \
                   $(shell find cpp/include cpp/src cpp/cuda cpp/bindings python benchmarks -not -name '*.pyc' -not -path '*/results*' -not -name __pycache__)
CPP_FILES = $(shell find cpp benchmarks -name '*.c' -o -name '*.hpp' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
# Sanitizers of older compilers do not find their way in a fully randomised address space.
NO_ASLR := $(shell setarch -R true 2>/dev/null && echo setarch -R)

.PHONY: cuda-build gpu-check build demo test lint types cpp-test cpp-test-plain cpp-test-asan cpp-test-tsan py-test package-test bench bench-peers format clean
.NOTPARALLEL:
.SILENT:

build: $(PACKAGE) $(TESTING)

demo: $(PACKAGE)
	$(BIN)/l2m-fast demo

test: lint types cpp-test py-test package-test

lint: .venv/.dev
	echo "== lint"
	$(BIN)/ruff format --quiet --check .
	$(BIN)/ruff check --quiet .
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)
	$(BIN)/codespell

types: .venv/.dev $(PACKAGE) $(TESTING)
	echo "== types"
	$(BIN)/mypy --no-error-summary
	MYPYPATH=python $(BIN)/stubtest --concise --mypy-config-file pyproject.toml l2m_fast._core
	MYPYPATH=tests PYTHONPATH=build/testing $(BIN)/stubtest --concise --mypy-config-file pyproject.toml _testing

cpp-test: cpp-test-plain cpp-test-asan cpp-test-tsan

cpp-test-asan: SANITIZE = address,undefined
cpp-test-tsan: SANITIZE = thread
cpp-test-plain cpp-test-asan cpp-test-tsan: cpp-test-%: .venv/.demo
	echo "== C++ tests: $*"
	$(BIN)/cmake -S . -B build/$* -G Ninja -D CMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja --log-level=WARNING \
	    -D L2M_BUILD_TESTS=ON -D L2M_SANITIZE=$(SANITIZE) -D L2M_WERROR=$(WERROR) > /dev/null
	$(BIN)/cmake --build build/$* -- --quiet
	$(NO_ASLR) $(BIN)/ctest --test-dir build/$* --no-tests=error --output-on-failure

cuda-build: .venv/.demo
	$(BIN)/cmake -S . -B build/cuda -G Ninja -D CMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -D L2M_CUDA=ON -D L2M_WERROR=ON
	$(BIN)/cmake --build build/cuda --clean-first --target l2m_cuda

gpu-check:
	echo "== building l2m_fast with CUDA into $(GPU_SITE)"
	SKBUILD_BUILD_DIR='build/gpu/{wheel_tag}' SKBUILD_CMAKE_DEFINE=L2M_CUDA=ON \
	    $(PYTHON) -m pip install --quiet --no-build-isolation --no-deps --upgrade --target $(GPU_SITE) .
	echo "== pytest tests/gpu"
	$(GPU_RUN) $(PYTHON) -m pytest -c tests/gpu/check.ini tests/gpu
	for tool in memcheck racecheck; do \
	    command -v compute-sanitizer > /dev/null || { echo "== no compute-sanitizer: skipped"; break; }; \
	    echo "== compute-sanitizer: $$tool"; \
	    PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(GPU_RUN) compute-sanitizer --tool $$tool --error-exitcode 1 \
	        $(PYTHON) -m pytest -q -c tests/gpu/check.ini tests/gpu -m kernels || exit 1; \
	done
	echo "== benchmarks/gpu"
	$(GPU_RUN) $(PYTHON) -m benchmarks.gpu $(GPU_RESULTS)

py-test: .venv/.dev $(PACKAGE) $(TESTING)
	echo "== pytest"
	$(BIN)/pytest

# The wheels of the sdist in clean environments, and every test again on the one without CUDA kernels.
package-test: .venv/.dev $(TESTING)
	echo "== wheels"
	$(BIN)/python tests/package/check.py build/wheels
	rm -rf build/no-cuda
	$(BIN)/python -m pip install --quiet --no-deps --target build/no-cuda build/wheels/no-nvcc/*.whl
	echo "== pytest, without CUDA kernels"
	export PYTHONPATH=$(CURDIR)/build/no-cuda; \
	    $(BIN)/python -c 'import l2m_fast, sys; sys.exit(l2m_fast.build_info()["cuda_built"])' && $(BIN)/pytest

bench: .venv/.dev $(PACKAGE) $(TESTING)
	$(BIN)/pytest benchmarks/ --benchmark-only --results $(BENCH_RESULTS)

bench-peers: .venv/.bench $(patsubst requirements/peers/%.txt,.venv/peers/%/.installed,$(wildcard requirements/peers/*.txt))

format: .venv/.dev
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format --quiet .
	$(BIN)/clang-format -i $(CPP_FILES)

clean:
	rm -rf build dist .venv/.package-* .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "l2m_fast needs Python >= 3.10: make PYTHON=...")'
	$(PYTHON) -m venv .venv

.venv/.demo: requirements/demo.txt requirements/constraints.txt .venv/bin/python
	echo "== installing requirements/demo.txt into .venv: some minutes where torch has to be downloaded"
	$(BIN)/python -m pip install --quiet -r requirements/demo.txt
	touch $@

.venv/.dev: requirements/dev.txt .venv/.demo
	echo "== installing requirements/dev.txt into .venv"
	$(BIN)/python -m pip install --quiet -r requirements/dev.txt
	touch $@

.venv/.bench: requirements/bench.txt requirements/bench-no-deps.txt .venv/.dev
	echo "== installing requirements/bench.txt into .venv"
	$(BIN)/python -m pip install --quiet -r requirements/bench.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/bench-no-deps.txt
	touch $@

# Rivals with an environment of their own. One that does not install stops nothing: the benchmark reports its error.
.venv/peers/%/.installed: requirements/peers/%.txt requirements/constraints.txt .venv/bin/python
	echo "== installing $< into .venv/peers/$*"
	$(BIN)/python -m venv --clear .venv/peers/$*
	if .venv/peers/$*/bin/python -m pip install --quiet -r $< > .venv/peers/$*/failed.log 2>&1; \
	then rm .venv/peers/$*/failed.log; touch $@; else cat .venv/peers/$*/failed.log; fi

# The module of the tests, which is no part of the package.
$(TESTING): $(PACKAGE_SOURCES) cpp/bindings/testing/module.cpp .venv/.demo
	echo "== building the testing module"
	$(BIN)/cmake -S . -B build/testing -G Ninja -D CMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja --log-level=WARNING \
	    -D L2M_TESTING_MODULE=ON -D L2M_WERROR=$(WERROR) -D Python_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	    -D pybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > /dev/null
	$(BIN)/cmake --build build/testing -- --quiet
	touch $@

# Not editable: what is tested is what a user gets. The build folder stays, so only what changed is compiled.
$(PACKAGE): $(PACKAGE_SOURCES) .venv/.demo
	echo "== building l2m_fast"
	SKBUILD_BUILD_DIR='build/{wheel_tag}' SKBUILD_CMAKE_DEFINE=L2M_WERROR=$(WERROR) \
	    $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps .
	touch $@
