# make demo and make test work from a fresh clone; the rest is for those who work on fastrestore.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BUILD := build

.PHONY: demo test bench bench-full asan lint format clean

demo: $(STAMP)
	$(BIN)/python demo/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest -q

# Results and report/report.html go here; bench-full takes every combination, which is hours.
RECORD ?= benchmarks/results/local

bench: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[bench,peers]"
	$(BIN)/fastrestore bench $(BENCH_OPTIONS) --record $(RECORD) --plot $(RECORD)/report

bench-full: BENCH_OPTIONS := --full
bench-full: bench

# The native tests under AddressSanitizer and UndefinedBehaviorSanitizer.
asan: $(STAMP)
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(BUILD)/asan -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DFR_NATIVE_TESTS=ON -DFR_SANITIZE=address,undefined
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(BUILD)/asan
	PATH="$(abspath $(BIN)):$$PATH" ctest --test-dir $(BUILD)/asan --output-on-failure

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cc' 'csrc/*.inc' 'csrc/*.cu' 'csrc/*.cuh' 'tests/native/*' 'tests/gpu/*.h' 'tests/gpu/*.cc' 'examples/*.c')

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.h' 'csrc/*.cc' 'csrc/*.inc' 'csrc/*.cu' 'csrc/*.cuh' 'tests/native/*' 'tests/gpu/*.h' 'tests/gpu/*.cc' 'examples/*.c')

$(STAMP): pyproject.toml setup.py constraints.txt CMakeLists.txt $(shell find csrc -name '*.cc' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh')
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test,dev]"
	touch $@

clean:
	rm -rf $(BUILD) fastrestore/_C*.so
