"""What this machine has and what the toolkit makes of it: python scripts/doctor.py"""

import shutil
import sys

import torch

from seg.engine.runtime import commit, device_name, versions
from seg.ops import backend, cuda_path


def main() -> int:
    if not {"-h", "--help"}.isdisjoint(sys.argv):
        print(__doc__)
        return 0
    if sys.argv[1:]:
        print(f"error: {sys.argv[1]}: doctor.py takes no arguments; it looks at this machine alone", file=sys.stderr)
        return 2
    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    facts = {"commit": commit(), **versions(), "CUDA of torch": torch.version.cuda or "none"}
    for tool in ("g++", "clang++", "nvcc"):
        facts[tool] = shutil.which(tool) or "none"
    for device in devices:
        facts[str(device)] = device_name(device)
    failed = False
    for kind in sorted({device.type for device in devices}):
        try:
            found = backend(kind) + (f", {cuda_path()} path" if kind == "cuda" else "")
        except (RuntimeError, ValueError) as error:  # SEG_KERNELS asks for what can't be had
            found, failed = str(error), True
        facts[f"operators on {kind}"] = found
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
