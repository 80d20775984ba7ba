# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv first where it is missing.
PYTHON ?=
export PYTHON
run = .venv/bin/python

.PHONY: setup demo test check kernels clean
setup:
	@scripts/setup.sh test
demo: setup
	$(run) scripts/train.py -m experiment=demo
	$(run) scripts/report.py runs=runs/demo
test: setup
	$(run) -m pytest
check:
	@scripts/setup.sh test,check
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(run) -m pytest
kernels: setup
	$(run) -m seg.ops.build
clean:
	rm -rf .venv build *.egg-info
