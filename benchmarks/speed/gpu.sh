#!/usr/bin/env bash
# The whole measurement on a GPU in one call of at most six minutes: the gpu tests, and beside them all that is compiled
# once; then one variant after the other from warm caches; then one table with the shares of the device's peaks.
#
#   bash benchmarks/speed/gpu.sh OUT                       # a folder for tables and JSON
#   LIMITS=5 VARIANTS=classical,kept,eager bash benchmarks/speed/gpu.sh OUT --device cpu --width 8 --steps 2 --images 9
#
# The second line is a rehearsal without a GPU. LIMITS multiplies all limits of time; VARIANTS are separated by commas.
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
cd "$(dirname "$0")/../.."
times=${LIMITS:-1}
IFS=, read -r -a variants <<< "${VARIANTS:-classical,kept,compiled,compiled tf32,compiled bf16,captured,compiled parallel 8}"
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
shift
suites=(iteration experts evaluation published-size)

limited() { timeout "$(($1 * times))" "${@:2}"; }
measure() { # SECONDS NAME ARGUMENTS: one suite, whose hang does not hold up the rest
  limited "$1" python benchmarks/speed/run.py "${@:3}" --caches "$out/caches" --output "$out/$2.json" \
    > "$out/$2.txt" 2> "$out/$2.log" || echo "$2: exit code $? (124: too long); $2.log says why"
}

echo "== tests and caches ($SECONDS s)"
limited 120 python -m pytest -q -m gpu -n 4 tests > "$out/tests.txt" 2>&1 &
for suite in "${suites[@]}"; do
  for variant in "${variants[@]}"; do # what is not compiled needs no cache, and not every suite has every variant
    [[ $variant == compiled* || $variant == captured ]] || continue
    limited 120 python benchmarks/speed/run.py "$suite" --variants "$variant" --rounds 1 --iterations 1 \
      --caches "$out/caches" --output "$out/warm-$suite-${variant// /-}.json" "$@" > /dev/null 2>&1 &
  done
done
wait
tail -n 1 "$out/tests.txt"

for suite in "${suites[@]}" counts; do
  echo "== $suite ($SECONDS s)"
  measure 60 "$suite" "$suite" --variants "${variants[@]}" --rounds 1 --iterations 3 "$@"
done
echo "== shares of the peaks ($SECONDS s)"
python benchmarks/speed/roofline.py "$out"/{iteration,experts,evaluation,published-size,counts}.json
