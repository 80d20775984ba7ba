"""The table of injected faults is complete and current."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import faults


def test_the_table_of_faults_is_current() -> None:
    assert faults.TABLE.read_text() == faults.table(), "run python tests/faults.py"


def test_every_case_has_a_test_or_a_command() -> None:
    numbers = [number for _, number, _, _ in faults.cases()]
    assert numbers == list(range(1, 81))
    covered = {number for number, tests in faults.injections().items() if tests} | set(faults.COMMANDS)
    assert set(numbers) - covered == set()
