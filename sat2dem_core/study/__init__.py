"""Many runs: a grid of settings trained and scored, tables and reports of it, and how much a split leaks."""

from sat2dem_core.study.report import write_report
from sat2dem_core.study.runner import read_table, run_study

__all__ = ["read_table", "run_study", "write_report"]
