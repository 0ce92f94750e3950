# make demo | run | test | check | pocket | bench | bench-gpu      (PYTHON=python3.12 to choose an interpreter)
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.10 python3 python,$(if $(shell $(p) -c 'import sys; print(int((3,10) <= sys.version_info[:2] <= (3,12)))' 2>/dev/null | grep 1),$(p))) python3)
VENV := .venv/bin
SPROCKET := $(VENV)/sprocket

.PHONY: install demo run test check pocket bench bench-gpu screenshots space clean

install:
	@$(PYTHON) scripts/install.py

demo: install
	@$(SPROCKET) generate --prompt "a red ball moves from left to right over a green meadow"

run: install
	@$(SPROCKET) serve

# three at once on two cores: while some wait for servers, disks and browsers, others compute
test:
	@$(PYTHON) scripts/install.py --extra test
	@$(VENV)/python scripts/chromium.py
ifeq ($(ARGS),)
	@OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
else
	@OMP_NUM_THREADS=1 $(VENV)/python -m pytest $(ARGS)
endif

check:
	@$(PYTHON) scripts/install.py --extra test --extra check
	@$(VENV)/ruff check .
	@$(VENV)/mypy

pocket:
	@$(PYTHON) scripts/install.py --extra pocket
	@$(VENV)/python -m training.pocket $(ARGS)

bench:
	@$(PYTHON) scripts/install.py --extra test
	@$(VENV)/python -m bench $(ARGS)

bench-gpu:
	@$(PYTHON) scripts/install.py --extra test
	@$(VENV)/python -m bench.gpu $(ARGS)

screenshots:
	@$(PYTHON) scripts/install.py --extra test
	@$(VENV)/python scripts/chromium.py
	@$(VENV)/python -m bench.screenshots $(ARGS)

space:
	@$(PYTHON) scripts/install.py --extra check
	@$(VENV)/python scripts/space.py $(ARGS)

clean:
	@rm -rf .venv build *.egg-info
