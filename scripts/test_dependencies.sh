#!/usr/bin/env bash
# Run the test command with the oldest dependencies that setup.cfg allows, or with the newest that can be installed.
#   bash scripts/test_dependencies.sh oldest|newest [--python PYTHON] [--venv DIR] [PYTEST ARGUMENTS]
# --python  the Python to use: python3.10 for oldest and python3.13 for newest, if not given
# --venv    the folder of the virtual environment, which is made anew: .venv-oldest or .venv-newest, if not given
# All other arguments go to pytest. An environment with PyTorch for CUDA takes 7 GB.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
usage() { sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

AGE="${1:-}"
case "$AGE" in
  oldest) FOUND=python3.10 ;;
  newest) FOUND=python3.13 ;;
  -h|--help) usage; exit 0 ;;
  *) echo "error: the first argument should be oldest or newest, not '$AGE'" >&2; usage >&2; exit 2 ;;
esac
shift
VENV="$ROOT/.venv-$AGE"
while [ $# -gt 0 ]; do
  case "$1" in
    --python|--venv)
      [ $# -ge 2 ] || { echo "error: $1 needs a path" >&2; exit 2; }
      if [ "$1" = --python ]; then FOUND="$2"; else VENV="$2"; fi
      shift 2 ;;
    -h|--help) usage; exit 0 ;;
    *) break ;;
  esac
done
if ! command -v "$FOUND" > /dev/null; then
  echo "error: there is no Python $FOUND; name one with --python" >&2
  exit 2
fi
case "$VENV" in /*) ;; *) VENV="$PWD/$VENV" ;; esac
OWN="$VENV/dependencies.txt"  # only a folder that has this file was made by this script and may be replaced
if [ -e "$VENV" ] && [ ! -f "$OWN" ]; then
  echo "error: $VENV was not made by this script; delete it, or name another folder with --venv" >&2
  exit 2
fi

echo "Making the virtual environment $VENV with $("$FOUND" --version)"
"$FOUND" -m venv --clear "$VENV"
: > "$OWN"  # without constraints, pip takes the newest release of everything
if [ "$AGE" = oldest ]; then
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check packaging
  "$VENV/bin/python" "$ROOT/scripts/oldest_dependencies.py" > "$OWN"
fi
export MEDNEXTV2_VENV="$VENV" MEDNEXTV2_CONSTRAINTS="$OWN"
exec bash "$ROOT/scripts/test.sh" "$@"
