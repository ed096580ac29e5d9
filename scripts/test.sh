#!/usr/bin/env bash
# Install the packages that the tests need, and run the tests. Arguments go to pytest: bash scripts/test.sh -m slow
# With MEDNEXTV2_DATA (a folder that contains Task04_Hippocampus) and MEDNEXTV2_GOLDEN (outputs of the authors' code)
# the tests on real data and against the authors' code run, too.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
EXTRAS=test
source "$ROOT/scripts/environment.sh"
cd "$ROOT"
types=""
if [ "$CONSTRAINTS" = "$ROOT/constraints.txt" ]; then  # what linters say depends on their version
  "$PYTHON" -m ruff check .
  "$PYTHON" -m ruff format --check --quiet . || { echo "format the files above: python -m ruff format ." >&2; exit 1; }
  "$PYTHON" -m mypy --no-error-summary > "$VENV/types.log" 2>&1 & types=$!  # beside the tests, since it uses one core
fi
# two processes with one thread each: the networks of the tests are too small for more, and waiting threads spin
export OMP_NUM_THREADS=1
status=0
"$PYTHON" -m pytest --numprocesses 2 --dist loadfile "$@" || status=$?
if [ -n "$types" ] && ! wait "$types"; then
  cat "$VENV/types.log" >&2
  echo "error: mend the types above; setup.cfg says which modules are checked" >&2
  status=1
fi
exit "$status"
