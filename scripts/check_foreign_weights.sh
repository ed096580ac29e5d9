#!/usr/bin/env bash
# Load checkpoints that nnU-Net's own package writes, among them a ResEnc-L of 102 million parameters, and compare outputs.
#   bash scripts/check_foreign_weights.sh [--env DIR] [--folder DIR]
# --env     an environment for nnU-Net, which is made if it does not exist (default: .nnunet; it takes 8 GB)
# --folder  the folder for the checkpoints (default: a temporary one; they take 1.1 GB)
# Needs this project's environment (bash scripts/test.sh makes it) and 5 GB of memory. It takes about ten minutes on two CPU
# cores, besides the installation.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
NNUNET_ENV="$ROOT/.nnunet" FOLDER=""
while [ $# -gt 0 ]; do
  case "$1" in
    --env|--folder)
      [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; }
      case "$1" in --env) NNUNET_ENV="$2" ;; --folder) FOLDER="$2" ;; esac
      shift 2 ;;
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "error: unknown argument $1; see bash scripts/check_foreign_weights.sh --help" >&2; exit 2 ;;
  esac
done
EXTRAS=test
source "$ROOT/scripts/environment.sh"
if [ ! -x "$NNUNET_ENV/bin/python" ]; then
  "$PYTHON" -m venv "$NNUNET_ENV"
  "$NNUNET_ENV/bin/python" -m pip install --quiet --disable-pip-version-check -c "$ROOT/constraints.txt" torch
  "$NNUNET_ENV/bin/python" -m pip install --quiet --disable-pip-version-check "nnunetv2>=2.8"
fi
if [ -z "$FOLDER" ]; then
  FOLDER=$(mktemp -d)
  trap 'rm -rf "$FOLDER"' EXIT
fi
(cd "$FOLDER" && "$NNUNET_ENV/bin/python" "$ROOT/scripts/foreign_weights_make.py" "$FOLDER")
"$PYTHON" "$ROOT/scripts/foreign_weights_check.py" "$FOLDER"
