#!/usr/bin/env bash
# The whole measurement on a GPU in one call of at most six minutes: the gpu tests, and beside them all that is compiled
# once; then one variant after the other from warm caches; then one table with the shares of the device's peaks.
#
#   bash benchmarks/speed/gpu.sh OUT                                  # a folder for tables and JSON
#   LIMITS=5 bash benchmarks/speed/gpu.sh OUT --device cpu --width 8 --steps 2 --images 9    # a rehearsal without a GPU
#
# LIMITS multiplies all limits of time.
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
cd "$(dirname "$0")/../.."
times=${LIMITS:-1}
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
shift
suites=(iteration experts evaluation side-by-side)
run() { # SECONDS NAME ARGUMENTS: one suite, which a hang does not hold up
  timeout "$(($1 * times))" python benchmarks/speed/run.py "${@:3}" --caches "$out/caches" --output "$out/$2.json" \
    > "$out/$2.txt" 2> "$out/$2.log" || echo "$2: exit code $? (124: more than $(($1 * times)) s); $out/$2.log says why"
}

echo "== tests and caches ($SECONDS s)"
timeout "$((150 * times))" python -m pytest -q -m gpu -n 4 tests > "$out/tests.txt" 2>&1 &
for suite in "${suites[@]}"; do run 150 "warm-$suite" "$suite" --rounds 1 --iterations 1 "$@" & done
wait
tail -n 1 "$out/tests.txt"

for suite in "${suites[@]}"; do
  echo "== $suite ($SECONDS s)"
  run 60 "$suite" "$suite" --rounds 1 --iterations 3 "$@"
done
run 30 counts counts --rounds 1 --iterations 3 "$@"
echo "== ($SECONDS s)"
python benchmarks/speed/roofline.py "$out"/{iteration,experts,evaluation,side-by-side,counts}.json
