#!/usr/bin/env bash
# All tests in two lanes that run side by side: unit tests compute, workflows and the Slurm rehearsal
# mostly wait. The second lane is told when the first has ended. Ends with 1 where any test failed.
set -uo pipefail
log=$(mktemp)
trap 'kill $(jobs -p) 2>/dev/null; rm -f "$log"' EXIT

waiting() {
  local code=0
  python -m pytest --durations=10 tests/workflow || code=1
  # The long part of the rehearsal: `make test-slurm`.
  python -m pytest --durations=10 tests/slurm -m "not rehearsal" || code=1
  return $code
}

waiting >"$log" 2>&1 &
other=$!
# Baselines and UniRep on the whole of the small data: `make test-bands`.
python -m pytest --durations=10 tests/unit tests/gpu -m "not bands"
code=$?
wait "$other" || code=1
printf '\nWorkflows and Slurm:\n'
cat "$log"
[ "$code" = 0 ] || exit 1
