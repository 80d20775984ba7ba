# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv first where it is missing.
PYTHON ?=
export PYTHON
run = .venv/bin/python

.PHONY: setup demo test check kernels sanitize soak clean
setup:
	@scripts/setup.sh test
demo: setup
	$(run) scripts/train.py -m experiment=demo
	$(run) scripts/report.py runs=runs/demo
# two processes of one thread each; a file's tests stay together, for what they share
test: setup
	OMP_NUM_THREADS=1 $(run) -m pytest -n 2 --dist loadfile
check:
	@scripts/setup.sh test,check
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	OMP_NUM_THREADS=1 $(run) -m pytest -n 2 --dist loadfile
kernels: setup
	$(run) -m seg.ops.build
# Long tests: 200 kills at random moments of training, and 132,000 damaged files for the readers; about 20 minutes.
soak: setup
	$(run) tests/soak/kill.py 200
	SEG_FUZZ=12000 $(run) -m pytest tests/test_fuzz.py --timeout 3600 -rP
# Memory errors, races and missing barriers of the CUDA kernels, on both paths; needs a GPU and compute-sanitizer.
sanitize: setup
	@command -v compute-sanitizer >/dev/null || \
	  { echo "there is no compute-sanitizer on PATH; it comes with the CUDA toolkit" >&2; exit 2; }
	@for tool in memcheck racecheck synccheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --target-processes all --error-exitcode 1 \
	    $(run) -m pytest tests/ops/test_cuda.py -k "layers or fault_05 or counted" --timeout 3000 || exit 1; \
	done
clean:
	rm -rf .venv build *.egg-info
