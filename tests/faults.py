"""Writes tests/FAULTS.md, what is injected and where: python tests/faults.py

A test belongs to a case by `@pytest.mark.fault(NUMBER)` or by its name, test_fault_NUMBER_...; a case that no test can
inject here has a command, with what it said when it was last run.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TABLE = TESTS / "FAULTS.md"
CASES = """
Operator
 1 batch of 0 | empty output, zero gradients
 2 batches of 1, 33, 37, 65 | each image gets what it gets alone
 3 channels last, sliced, permuted, expanded arguments | the same result
 4 an offset that is not a number | only the pixels that read it are not numbers; no crash; the layer is named
 5 infinite and huge offsets | contribute 0, finite gradients
 6 samples exactly on the border | fade over one cell, as in v2
 7 whole-numbered positions | the documented one-sided gradient
 8 zero offset, mask 1 | equals the dilated convolution
 9 wrong shapes or groups | an error that names them
10 stride or dilation 0, kernel larger than the input | an error, never a dead process
11 mixed dtypes or devices | an error
12 fp16, bf16, fp32, fp64, autocast | equal within the precision
13 2^31 elements and more | exact, or a clear error
14 more than 65,535 blocks | the same result
15 gradients of all arguments, groups and offset groups | agree with finite differences
16 double backward | agrees with finite differences
17 deterministic algorithms | two runs have the same bits
18 torch.compile, opcheck, vmap | one graph; equal results
19 another stream, the last GPU | work goes where the tensors are
20 gradients that nobody needs | are not computed
21 1x1, 1xN and odd maps | the same result
22 memory errors and races on a GPU | none found
Kernel build
23 no nvcc | one line, then the reference
24 nvcc of another CUDA | an error with the way out, then the reference
25 no C++ compiler | one line, then the reference
26 read-only or full cache | the reference; nothing half-written
27 several processes build at once | one builds
28 a build is killed | the next start builds
29 a damaged library in the cache | is built again
30 an unknown GPU | PTX and a notice
31 SEG_KERNELS=off, require, unknown | honoured; an error names the choices
Data
32 empty, truncated, bit-flipped files, web pages | an error that names the file; or skipped, counted, capped
33 decompression bombs, images and .mat | refused before unpacking; the limit can be set
34 grey, CMYK, transparent, 16-bit images | converted, or an error
35 an image that its viewer turns | an error with the way out
36 masks in a palette, in colours, in a lossy format | ids are read; an error for the others
37 mask values without a class | an error with file and values
38 a mask of another size | an error with both sizes
39 Cityscapes trainIds for labelIds, and the reverse | detected
40 missing root, split, list; odd line ends | an error with the way out; tolerated
41 missing masks, doubled ids, paths that leave the folder | an error
42 a batch without labels | loss 0, gradient 0
43 an image smaller than the crop | padded with mean and 255
44 a data set shorter than a batch | an error before training; the last short batch is left out
45 a killed worker | one clear line, no hang
46 augmentation in workers and epochs | all distinct, all reproducible
47 unicode, spaces, loops of links, read-only folders | the same result
Training state
48 kill -9 during a save | the previous checkpoint loads
49 a full disk | the previous checkpoint survives; an error
50 damaged checkpoints | named; the newest good one is taken
51 a malicious checkpoint | refused, nothing runs
52 a checkpoint of another net | an error that lists the keys
53 resume at an epoch's end and in its middle | the same bits as without a stop
54 resume with another number of ranks or batch size | another number goes on and says so; an error that lists the key
55 resume with a changed configuration | refused with the differences
56 SIGTERM, SIGINT, SIGUSR1, twice | saved, exit 75; at once at the second
57 a loss that is not finite | skipped and named; the run ends after many
58 out of memory | an error with the knobs; a sweep goes on
59 two runs in one folder | the second is refused
60 a changed clock or time zone | durations are right
Evaluation and report
61 a class absent in truth, or in both | 0 if predicted, else left out
62 images that ranks can't share evenly | the same integers
63 more than 2^31 pixels | exact counts
64 cityscapesscripts on the same files | equal
65 missing, wrong, colour, 16-bit predictions | named
66 evaluation of nothing | an error
67 logits that are not numbers | an error that names the image
68 no object of a size | n=0, not 0.0
69 markup in class and file names | escaped
70 failed runs, missing numbers | shown as such
Configuration, commands, security
71 mistyped keys, wrong types, values out of range | an error with the choices, exit 2
72 foreign calls in a configuration | refused
73 secrets in the environment | never saved
74 no network, on import, in --help, training and evaluation | nothing asks for one
75 a log that is no terminal, --cfg, --help | plain lines; no torch needed
76 another, or a read-only working folder | the same result
77 ONNX export, old ONNX Runtime | checked numerically; an error with the way out
78 an output folder that can't be made | an error
79 more workers than cores, spawned | the same batches
80 Python 3.11, 3.12, 3.13 | the tests pass
"""
COMMANDS = {
    22: "`make sanitize` on a machine with a GPU: not run yet",
    80: "`PYTHON=python3.12 make test`, 3.13: tests/models and tests/data, in 3.12.1 all pass, in 3.13.0 all but one",
}
HEAD = """# What is injected, and what has to come of it

Generated by `python tests/faults.py` from the tests; a test fails where it is not current. `make test` runs all
but those that need a GPU; `make soak` runs 200 kills and 100,000 damaged files beyond them.
"""


def cases() -> Iterator[tuple[str, int, str, str]]:
    """Section, number, what is injected, outcome."""
    section = ""
    for line in CASES.strip().splitlines():
        found = re.fullmatch(r" ?(\d+) (.+) \| (.+)", line)
        if found:
            yield section, int(found[1]), found[2], found[3]
        else:
            section = line


def injections() -> dict[int, list[str]]:
    """The tests of each case, as `folder/file.py::name`."""
    found = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in numbers_of(node):
                    found[number].append(f"{path.relative_to(TESTS)}::{node.name}")
    return found


def numbers_of(test: ast.FunctionDef) -> set[int]:
    """The cases of a test: of its markers, and in its name."""
    marks = [call for call in test.decorator_list if isinstance(call, ast.Call)]
    marked = {
        argument.value
        for call in marks
        if ast.unparse(call.func) == "pytest.mark.fault"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    }
    named = re.match(r"test_fault((?:_\d\d)+)_", test.name)
    return marked | {int(number) for number in (named[1].split("_")[1:] if named else [])}


def table() -> str:
    """The whole file."""
    tests, lines, before = injections(), [HEAD], ""
    for section, number, injected, outcome in cases():
        if section != before:
            lines += [f"\n## {section}\n", "| case | injected | outcome | where |", "|---|---|---|---|"]
            before = section
        where = [f"`{name}`" for name in tests[number]]
        where += [COMMANDS[number]] if number in COMMANDS else []
        lines.append(f"| {number} | {injected} | {outcome} | {'<br>'.join(where) or 'nothing yet'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table())
