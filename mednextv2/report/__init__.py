"""One HTML page about an evaluation or a prediction."""

from mednextv2.report.write import write_report
from mednextv2.scores.results_json import CaseFiles, Results, read_results, write_results

__all__ = ["CaseFiles", "Results", "read_results", "write_report", "write_results"]
