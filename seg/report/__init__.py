"""Tables, statistics, figures and a page from the JSON files of finished runs; no model is imported here."""

from seg.report.reading import read_run, read_runs
from seg.report.tables import comparison_table, evaluation_table
from seg.report.write import write_report

__all__ = ["comparison_table", "evaluation_table", "read_run", "read_runs", "write_report"]
