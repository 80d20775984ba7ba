import time

import pytest
import torch

from seg.analysis.timing import extra_memory, medians


def test_contenders_take_turns_and_nobody_always_comes_first():
    ran = []
    contenders = {name: lambda name=name: ran.append(name) for name in "abc"}
    medians(contenders, rounds=3)
    assert ran == [*"abc", *"abc", *"bca", *"cab"]  # one round to warm up


def test_median_is_that_of_the_rounds():
    naps = iter([0.0, 0.2, 0.02, 0.02])  # the first one warms up
    found = medians({"naps": lambda: time.sleep(next(naps))}, rounds=3)
    assert 0.02 <= found["naps"] < 0.2


def test_time_ends_the_rounds_but_not_before_five():
    ran = []
    medians({"a": lambda: ran.append(1)}, rounds=50, seconds=0.0)
    assert len(ran) == 1 + 5


def test_extra_memory_is_what_a_run_takes_at_its_peak():
    found = extra_memory(lambda: torch.ones(48 * 2**20, dtype=torch.uint8))
    if found is None:
        pytest.skip("this system does not tell the peak")
    assert 44 * 2**20 < found < 80 * 2**20
