import json
import subprocess
import sys
from pathlib import Path

import pytest

from seg.report.benchmark import benchmark_tables, save_benchmark
from seg.report.table import as_text

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def result():
    """Two cases of one measure, of which one has a contender more."""
    rows = [
        {"case": "small", "milliseconds": {"ours": 1.5, "conv2d": 1.0}, "ratios": {"ours / conv2d": 1.5}},
        {
            "case": "large",
            "milliseconds": {"ours": 9.0, "conv2d": 8.0, "theirs": 90.0},
            "ratios": {"theirs / ours": 10},
        },
    ]
    return {"rows": [{"measure": "forward", "mebibytes": {"ours": 0.5}, **row} for row in rows]}


def test_table_has_a_column_for_every_contender_and_a_dash_where_it_is_missing(result):
    times, memory = benchmark_tables(result)
    assert [name for _, name in times.columns] == ["ours", "conv2d", "theirs", "ours / conv2d", "theirs / ours"]
    lines = as_text(times).splitlines()
    assert lines[-2].split() == ["small", "1.50", "1.00", "-", "1.50", "-"]
    assert lines[-1].split() == ["large", "9.00", "8.00", "90.00", "-", "10.00"]
    assert as_text(memory).splitlines()[-1].split() == ["large", "0.5"]


def test_times_below_a_millisecond_have_more_digits(result):
    result["rows"][0]["milliseconds"]["ours"] = 0.0254
    assert as_text(benchmark_tables(result)[0]).splitlines()[-2].split()[1] == "0.0254"


def test_picture_is_drawn(result, tmp_path):
    save_benchmark(result, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_counted_is_told_in_full(result):
    result["counts"] = {"parameters": {"plain": 44_619_861, "deformable": 44_868_747}}
    assert as_text(benchmark_tables(result)[0]).splitlines()[-1].split() == ["parameters", "44,619,861", "44,868,747"]


def run(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)


def test_benchmark_keeps_its_figures_with_the_machine(tmp_path):
    done = run("metrics", "threads=1", "rounds=1", f"output={tmp_path / 'made' / 'metrics.json'}")
    assert done.returncode == 0, done.stderr
    assert "bincount / ours" in done.stdout
    kept = json.loads((tmp_path / "made" / "metrics.json").read_text())
    assert {"processor", "cores", "torch", "date", "commit", "backend"} <= set(kept["machine"])
    assert [row["case"] for row in kept["rows"]] == ["uint8", "int64"]
    assert set(kept["rows"][0]["milliseconds"]) == {"ours", "bincount", "masked bincount"}
    assert (tmp_path / "made" / "metrics.png").exists()


def test_unknown_shape_is_named_with_the_choices():
    done = run("ops", "shapes=[res9]")
    assert done.returncode == 2
    assert "shapes has 'res9'; choose from res5-23x31" in done.stderr
