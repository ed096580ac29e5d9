#!/usr/bin/env bash
# Test bundles in a real MONAI Label server: inference, active learning, submitted labels, two trainings, refusals.
#   bash scripts/check_monai_label.sh --data DIR [--env DIR] [--port N] [--log FILE]
# --data  the folder of Task04_Hippocampus, or one that contains it (default: MEDNEXTV2_DATA)
# --env   the environment of scripts/monai_label.sh, which is made if it does not exist (default: .monai-label). The check
#         makes an app of its own, so bundles that are trained in yours stay as they are.
# --port  a free port for the server (default: 8017)
# --log   a file for what is printed, and FILE.server for what the server prints (default: monai_label_check.log)
# It takes about ten minutes on two CPU cores, besides the installation.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LABEL_ENV="$ROOT/.monai-label" DATA="${MEDNEXTV2_DATA:-}" PORT=8017 LOG=monai_label_check.log
while [ $# -gt 0 ]; do
  case "$1" in
    --data|--env|--port|--log)
      [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; }
      case "$1" in --data) DATA="$2" ;; --env) LABEL_ENV="$2" ;; --port) PORT="$2" ;; --log) LOG="$2" ;; esac
      shift 2 ;;
    -h|--help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "error: unknown argument $1; see bash scripts/check_monai_label.sh --help" >&2; exit 2 ;;
  esac
done
[ -n "$DATA" ] || { echo "error: --data is missing, and MEDNEXTV2_DATA is not set" >&2; exit 2; }
[ ! -d "$DATA/Task04_Hippocampus" ] || DATA="$DATA/Task04_Hippocampus"
[ -f "$DATA/dataset.json" ] || { echo "error: --data $DATA: holds no dataset.json of Task04_Hippocampus" >&2; exit 2; }
bash "$ROOT/scripts/monai_label.sh" --install-only --env "$LABEL_ENV"
"$LABEL_ENV/bin/python" -u "$ROOT/scripts/monai_label_check.py" --data "$DATA" --env "$LABEL_ENV" --port "$PORT" \
  --log "$LOG" 2>&1 | tee "$LOG"
