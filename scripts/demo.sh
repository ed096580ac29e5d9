#!/usr/bin/env bash
# From nothing to a mask: install, find data, train, evaluate on unseen cases, segment one of them.
#   bash scripts/demo.sh [--data DIR] [--output DIR]
# --data    a folder in MSD or nnU-Net layout with the labels of task 4, or one that contains Task04_Hippocampus.
#           Without it, MEDNEXTV2_DATA is used, or the data are downloaded, or, without internet, a phantom is made.
# --output  the folder for all files (default: demo_output). A second start reuses its files.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DATA=""
OUTPUT="$ROOT/demo_output"
while [ $# -gt 0 ]; do
  case "$1" in
    --data|--output)
      [ $# -ge 2 ] || { echo "error: $1 needs a folder" >&2; exit 2; }
      if [ "$1" = --data ]; then DATA="$2"; else OUTPUT="$2"; fi
      shift 2 ;;
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "error: unknown argument $1 (known: --data DIR, --output DIR)" >&2; exit 2 ;;
  esac
done
if [ -n "$DATA" ] && [ ! -d "$DATA" ]; then echo "error: --data $DATA: there is no such folder" >&2; exit 2; fi
[ -z "$DATA" ] || DATA=$(cd "$DATA" && pwd)
mkdir -p "$OUTPUT"
OUTPUT=$(cd "$OUTPUT" && pwd)

EXTRAS=demo
source "$ROOT/scripts/environment.sh"

# let waiting threads spin for a shorter time, since they take cores from other programs on this machine
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}"

say() { printf '\n== %s\n' "$*"; }

# --- data ------------------------------------------------------------------------------------------------------------
TASK=Task04_Hippocampus
PHANTOM=""
find_dataset() {  # the folder itself, or the task's folder inside
  local folder
  for folder in "$1" "$1/$TASK"; do
    if [ -f "$folder/dataset.json" ]; then (cd "$folder" && pwd); return; fi
  done
  echo "error: neither $1 nor $1/$TASK has a dataset.json" >&2
  return 1
}
if [ -n "${DATA:-${MEDNEXTV2_DATA:-}}" ]; then
  DATASET=$(find_dataset "${DATA:-$MEDNEXTV2_DATA}")
  say "Data: $DATASET"
elif [ -f "$OUTPUT/phantom/dataset.json" ]; then
  DATASET="$OUTPUT/phantom" PHANTOM=yes
elif "$PYTHON" -m mednextv2 fetch "$TASK" "$OUTPUT/data"; then
  DATASET="$OUTPUT/data/$TASK"
  say "Data: $DATASET (Medical Segmentation Decathlon, CC-BY-SA 4.0)"
else
  "$PYTHON" -m mednextv2 phantom "$OUTPUT/phantom" --cases 100
  DATASET="$OUTPUT/phantom" PHANTOM=yes
fi
if [ -n "$PHANTOM" ]; then
  say "NO REAL DATA: none were given and none could be downloaded. This run uses a computer-made phantom (two touching"
  echo "   ellipsoids). Its scores say that the software works, nothing about hippocampi. Real data: --data DIR"
fi

# --- train, evaluate, segment ----------------------------------------------------------------------------------------
BUNDLE="$ROOT/bundles/mednextv2_hippocampus"
# small patches and few steps, so that two CPU cores need minutes; the bundle's own settings are for a GPU and a day
SETTINGS=(--patch_size "[32,48,32]" --num_workers 0)
monai_run() {
  "$PYTHON" -m monai.bundle run --config_file "$BUNDLE/configs/$1.yaml" --meta_file "$BUNDLE/configs/metadata.json" \
    --logging_file "$BUNDLE/configs/logging.conf" --bundle_root "$BUNDLE" "${SETTINGS[@]}" "${@:2}"
}
start=$SECONDS
say "Training on fold 0 (progress below)"
monai_run train --dataset_dir "$DATASET" --output_dir "$OUTPUT/training" --prepared_dir "$OUTPUT/prepared" \
  --batch_size 2 --epochs 12 --iterations_per_epoch 240 --warmup_epochs 1 --val_iterations 20

if [ "$OUTPUT/evaluation/summary.csv" -nt "$OUTPUT/training/model.pt" ]; then
  say "Already evaluated: $OUTPUT/evaluation"
else
  say "Evaluating on the cases of fold 0 that were not trained on"
  monai_run evaluate --dataset_dir "$DATASET" --weights "$OUTPUT/training/model.pt" --output_dir "$OUTPUT/evaluation"
fi

say "Segmenting one unseen case from its image file"
read -r IMAGE TRUTH < <("$PYTHON" - "$DATASET" "$OUTPUT/evaluation/cases.csv" <<'PYTHON'
import csv, sys
from mednextv2.data import read_dataset
scores = {}
for row in csv.DictReader(open(sys.argv[2], encoding="utf-8")):
    scores.setdefault(row["case"], []).append(float(row["dice"]))
ranked = sorted(scores, key=lambda case: sum(scores[case]))
typical = ranked[len(ranked) // 2]  # the case with the median score
case = next(c for c in read_dataset(sys.argv[1]).cases if c.name == typical)
print(case.images[0], case.label)
PYTHON
)
monai_run inference --input "$IMAGE" --weights "$OUTPUT/training/model.pt" --output_dir "$OUTPUT/masks"
NAME=$(basename "$IMAGE"); NAME=${NAME%.gz}; NAME=${NAME%.nii}; NAME=${NAME%_0000}
MASK="$OUTPUT/masks/${NAME}_seg.nii.gz"
"$PYTHON" -m mednextv2 picture "$IMAGE" "$OUTPUT/$NAME.png" --truth "$TRUTH" --prediction "$MASK" > /dev/null

# --- result ----------------------------------------------------------------------------------------------------------
say "Scores on unseen cases$([ -z "$PHANTOM" ] || echo " of the PHANTOM (computer-made, not anatomy)")"
"$PYTHON" - "$OUTPUT/evaluation/summary.csv" <<'PYTHON'
import csv, sys
from mednextv2.scores.evaluation import format_table
rows = list(csv.DictReader(open(sys.argv[1], encoding="utf-8")))
print(format_table([{k: v if k == "label" else float(v or "nan") for k, v in row.items()} for row in rows]))
print(f"\ncases: {rows[0]['dice_cases']}")
PYTHON
echo "table:   $OUTPUT/evaluation/cases.csv"
echo "mask:    $MASK"
echo "picture: $OUTPUT/$NAME.png"
echo "work after the installation: $(((SECONDS - start + 30) / 60)) minutes"
