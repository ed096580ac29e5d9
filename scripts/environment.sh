# Sourced by demo.sh and test.sh: creates a virtual environment with the package and the given extras, and sets PYTHON.
# Usage: EXTRAS=demo; source scripts/environment.sh
# MEDNEXTV2_VENV names a folder other than .venv, and MEDNEXTV2_CONSTRAINTS a file other than constraints.txt with versions.
# A second start installs nothing if the requirements are the same.

VENV="${MEDNEXTV2_VENV:-$ROOT/.venv}"
CONSTRAINTS="${MEDNEXTV2_CONSTRAINTS:-$ROOT/constraints.txt}"

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
        2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python 3.10 to 3.13 with venv and pip on the PATH (Debian: apt install python3-venv)" >&2
  return 1
}

if [ ! -x "$VENV/bin/python" ]; then
  echo "Making the virtual environment $VENV"
  found=$(find_python)
  "$found" -m venv "$VENV"
fi
PYTHON="$VENV/bin/python"

wanted=$(cat "$ROOT/setup.cfg" "$ROOT/pyproject.toml" "$CONSTRAINTS" | cksum)" $ROOT $EXTRAS"
installed="$VENV/.mednextv2-$EXTRAS"
if [ ! -f "$installed" ] || [ "$(cat "$installed")" != "$wanted" ]; then
  echo "Installing the package with the extra '$EXTRAS' and its requirements (a few minutes the first time)"
  # PyTorch first and alone: with a given version, pip uses a local build if one is configured
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$CONSTRAINTS" torch
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$CONSTRAINTS" -e "$ROOT[$EXTRAS]"
  echo "$wanted" > "$installed"
fi
