import time

import pytest
import torch

from seg.analysis.timing import EventClock, Rotation, WallClock, extra_memory, medians, sets_beyond


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


def test_a_clock_reads_what_it_is_told_to():
    reads = iter([3.0, 5.5])
    assert WallClock(read=lambda: next(reads)).seconds(lambda: None) == 2.5


def test_medians_are_those_of_the_clock():
    class Counting:
        def __init__(self):
            self.count = 0

        def seconds(self, run):
            run()
            self.count += 1
            return float(self.count)

    assert medians({"a": lambda: None}, rounds=5, clock=Counting()) == {"a": 3.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_events_measure_the_gpu_and_not_the_host():
    assert EventClock().seconds(lambda: time.sleep(0.0005)) < 0.0004
    assert EventClock().seconds(lambda: torch.cuda._sleep(20_000_000)) > 0.005


def test_sets_of_tensors_take_turns():
    ran = []
    rotation = Rotation([lambda name=name: ran.append(name) for name in "abc"])
    for _ in range(5):
        rotation()
    assert "".join(ran) == "abcab"


@pytest.mark.parametrize("cache, size, sets", [(0, 5, 1), (100, 1000, 2), (100, 50, 3), (100, 30, 5)])
def test_the_sets_between_two_uses_of_one_fill_the_cache(cache, size, sets):
    assert sets_beyond(cache, size) == sets
    assert (sets - 1) * size >= cache


def test_extra_memory_is_what_a_run_takes_at_its_peak():
    found = extra_memory(lambda: torch.ones(48 * 2**20, dtype=torch.uint8))
    if found is None:
        pytest.skip("this system does not tell the peak")
    assert 44 * 2**20 < found < 80 * 2**20
