"""Fuzz one reader with inputs that follow the code's branches: python tests/soak/guided.py READER [RUNS]

Needs atheris (pip install atheris, where it has a wheel). READER is one of test_fuzz.py's, whose checks it shares; the
branches of our own code and of PIL guide it. It ends at the first input that fails, and keeps it.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
with atheris.instrument_imports(include=["seg.data", "seg.models.mxnet_params", "PIL"]):
    from tests.test_fuzz import READERS, SEEDS, outcome, prepared


def main(reader: str, runs: str = "20000") -> None:
    os.environ["SEG_MAX_PIXELS"] = "1000000"
    top = Path(tempfile.mkdtemp(prefix="guided"))
    corpus, path = top / "corpus", prepared(reader, top)
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[reader]):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup(
        [sys.argv[0], f"-runs={runs}", "-timeout=20", f"-artifact_prefix={top}/", str(corpus)],
        lambda data: outcome(reader, path, data) and None,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        raise SystemExit(f"give a reader: {', '.join(READERS)}")
    main(*sys.argv[1:])
