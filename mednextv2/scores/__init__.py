"""What an evaluation measures, and the files that it writes: tables of scores, and a list of the files."""

from mednextv2.scores.evaluation import EvaluationTable
from mednextv2.scores.results_json import CaseFiles, Results, read_results, write_results

__all__ = ["CaseFiles", "EvaluationTable", "Results", "read_results", "write_results"]
