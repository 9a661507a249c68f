#!/usr/bin/env bash
# The whole loop on real data: adapters, estimates, fusion, check, prediction. Run it with: make demo
set -euo pipefail
suite=$1 target=$2 name=$3 rows=$4 eval_rows=$5 epochs=$6 seeds=$7
size=(--rows "$rows" --eval-rows "$eval_rows" --epochs "$epochs")

run() {
    printf '\n$ %s\n\n' "${*@Q}" | sed "s/'\([A-Za-z0-9_.,\/=-]*\)'/\1/g"
    "$@"
}

run adaptmtl train-adapters --suite "$suite" "${size[@]}"
run adaptmtl transfer --target "$target" "${size[@]}"
run adaptmtl fuse --sources auto --target "$target" --name "$name" "${size[@]}"
run adaptmtl check --target "$target" --seeds "$seeds" "${size[@]}"
run adaptmtl predict --adapter "$name" "is sea water salty" \
    --pair "Sea water is water from a sea or an ocean. On average it holds about 3.5% of dissolved salts."
