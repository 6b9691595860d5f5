#!/usr/bin/env bash
# All tests in two lanes that run side by side and take about equally long. The second lane is told
# when the first has ended. Ends with 1 where any test failed.
set -uo pipefail
# Tests are of tiny models: with two threads a process, lanes take each other's cores for waiting.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
log=$(mktemp)
trap 'kill $(jobs -p) 2>/dev/null; rm -f "$log"' EXIT

# Unit tests that kill, pack and restart processes: they mostly wait.
apart=(tests/unit/test_training_restart.py tests/unit/test_training_pack.py)

waiting() {
  local code=0
  python -m pytest --durations=10 "${apart[@]}" || code=1
  python -m pytest --durations=10 tests/workflow || code=1
  # The long part of the rehearsal: `make test-slurm`.
  python -m pytest --durations=10 tests/slurm -m "not rehearsal" || code=1
  return $code
}

waiting >"$log" 2>&1 &
other=$!
# Baselines and UniRep on the whole of the small data: `make test-bands`.
python -m pytest --durations=10 tests/unit tests/gpu -m "not bands" "${apart[@]/#/--ignore=}"
code=$?
wait "$other" || code=1
printf '\nThe second lane (restarts, workflows, Slurm):\n'
cat "$log"
[ "$code" = 0 ] || exit 1
