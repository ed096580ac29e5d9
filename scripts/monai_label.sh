#!/usr/bin/env bash
# Start MONAI Label with bundles of this project: make its environment, install the bundles into its app, start the server.
#   bash scripts/monai_label.sh --studies DIR [--bundles NAME,NAME] [--port N] [--host ADDRESS] [--env DIR] [--app DIR] [--no-train]
#   bash scripts/monai_label.sh --install-only [--env DIR]
# --studies       the folder of the images to label; submitted labels are stored in it. Required without --install-only.
# --bundles       names of bundles in the folder bundles, or paths of others, separated by commas (default:
#                 mednextv2_hippocampus). Each is copied into the app; the weights of a copy change when it is trained.
# --port          the port of the server (default: 8000)
# --host          the address at which the server can be reached (default: 127.0.0.1, this computer only). The server
#                 asks nobody for a password.
# --env           the folder of the environment (default: .monai-label); the first start installs about 8 GB there, and a
#                 second one of the same clone nothing if the requirements are the same
# --app           the folder of MONAI Label's app, which holds the copies of the bundles (default: apps/monaibundle in --env)
# --install-only  only install
# --no-train      do not offer training
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STUDIES="" BUNDLES=mednextv2_hippocampus PORT=8000 HOST=127.0.0.1 LABEL_ENV="$ROOT/.monai-label" APP="" ONLY="" SKIP=false

fail() { echo "error: $*" >&2; exit "${STATUS:-1}"; }

while [ $# -gt 0 ]; do
  case "$1" in
    --studies|--bundles|--port|--host|--env|--app)
      [ $# -ge 2 ] && [ -n "$2" ] || STATUS=2 fail "$1 needs a value; see bash scripts/monai_label.sh --help"
      case "$1" in
        --studies) STUDIES="$2" ;; --bundles) BUNDLES="$2" ;; --port) PORT="$2" ;; --host) HOST="$2" ;;
        --env) LABEL_ENV="$2" ;; --app) APP="$2" ;;
      esac
      shift 2 ;;
    --install-only) ONLY=yes; shift ;;
    --no-train) SKIP=true; shift ;;
    -h|--help) sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) STATUS=2 fail "unknown argument $1; see bash scripts/monai_label.sh --help" ;;
  esac
done
if [ -z "$ONLY" ]; then
  [ -n "$STUDIES" ] || STATUS=2 fail "--studies is missing; give the folder of the images to label"
  [ ! -f "$STUDIES" ] || fail "--studies $STUDIES: is a file; give the folder that holds the images to label"
  [ -d "$STUDIES" ] || fail "--studies $STUDIES: there is no such folder; give the one that holds the images to label"
  case "$PORT" in
    *[!0-9]*|"") fail "--port $PORT: should be a whole number from 1 to 65535, such as 8000" ;;
  esac
  [ -w "$STUDIES" ] || fail "--studies $STUDIES: cannot be written, and MONAI Label stores labels there; copy the images"
  STUDIES=$(cd "$STUDIES" && pwd)
fi

# --- the environment ---------------------------------------------------------------------------------------------------
find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.10 python3 python; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
        2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.10 to 3.12 with venv and pip on the PATH, which MONAI Label 0.8.5 needs (Debian: apt install python3-venv)"
}

if [ ! -x "$LABEL_ENV/bin/python" ]; then
  found=$(find_python)
  echo "Making the environment of MONAI Label in $LABEL_ENV"
  "$found" -m venv "$LABEL_ENV" || fail "--env $LABEL_ENV: cannot be made; give a folder that can be written"
fi
LABEL_ENV=$(cd "$LABEL_ENV" && pwd)
PYTHON="$LABEL_ENV/bin/python"
CONSTRAINTS="$ROOT/scripts/monai_label_constraints.txt"

wanted=$(cat "$ROOT/setup.cfg" "$CONSTRAINTS" "${BASH_SOURCE[0]}" | cksum)" $ROOT"
installed="$LABEL_ENV/.mednextv2-label"
if [ ! -f "$installed" ] || [ "$(cat "$installed")" != "$wanted" ]; then
  echo "Installing MONAI Label and this package (a few minutes and 8 GB the first time)"
  install() { "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$CONSTRAINTS" "$@"; }
  # builds of PyTorch and torchvision that belong together; those that are installed already stay if they do
  if ! "$PYTHON" -c 'import torchvision; torchvision.ops.nms' 2> /dev/null; then
    install "torch===2.13.0" "torchvision===0.28.0"
  fi
  install setuptools wheel numpy
  # sam2 is built from source: with PyTorch from here, since pip would otherwise fetch another one, and without CUDA
  SAM2_BUILD_CUDA=0 install --no-build-isolation monailabel "pydicom<3" "dicomweb-client[gcp]" pynetdicom
  # this package needs pydicom 3 only for DICOM series, and MONAI Label makes NIfTI of them itself
  install --no-deps -e "$ROOT"
  "$PYTHON" - > "$LABEL_ENV/requirements.txt" <<'PYTHON'
from importlib.metadata import requires
print(*(r for r in requires("mednextv2") if "extra ==" not in r and not r.startswith("pydicom")), sep="\n")
PYTHON
  install -r "$LABEL_ENV/requirements.txt"
  echo "$wanted" > "$installed"
fi
APP="${APP:-$LABEL_ENV/apps/monaibundle}"
if [ ! -f "$APP/main.py" ]; then
  rm -rf "$LABEL_ENV/app.new"  # of a start that was interrupted
  downloaded=$("$PYTHON" -m monailabel.main apps --download --name monaibundle --output "$LABEL_ENV/app.new" 2>&1) ||
    fail "MONAI Label cannot make its app in $LABEL_ENV: $(tail -n 1 <<< "$downloaded")"
  if [ -d "$APP" ]; then rmdir "$APP" 2> /dev/null || true; fi  # an empty folder may be given
  { [ ! -e "$APP" ] && mkdir -p "$(dirname "$APP")" && mv "$LABEL_ENV/app.new/monaibundle" "$APP"; } 2> /dev/null ||
    { rm -rf "$LABEL_ENV/app.new"
      fail "--app $APP: cannot be made; give a folder that is empty or does not exist, in one that can be written"; }
  rm -rf "$LABEL_ENV/app.new"
fi
[ -z "$ONLY" ] || { echo "Installed in $LABEL_ENV"; exit 0; }

# --- bundles and server ------------------------------------------------------------------------------------------------
"$PYTHON" "$ROOT/scripts/monai_label_bundles.py" --app "$APP" --port "$PORT" --host "$HOST" --studies "$STUDIES" \
  --names "$APP/bundles.txt" --bundles "$BUNDLES"
NAMES=$(cat "$APP/bundles.txt")
echo "Starting the server at http://$HOST:$PORT; stop it with Ctrl-C"
# zoo_source other than monaihosting, and no sam2: nothing is downloaded at the start
exec "$PYTHON" -m monailabel.main start_server --app "$APP" --studies "$STUDIES" --host "$HOST" --port "$PORT" \
  --conf models "$NAMES" --conf zoo_source ngc --conf sam2 false --conf skip_trainers "$SKIP"
