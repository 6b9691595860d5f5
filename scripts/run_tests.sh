#!/usr/bin/env bash
# All tests in three lanes that run side by side and take about equally long, each a part of the time
# waiting. The first lane's output is shown as it comes, the others' when it has ended. Ends with 1
# where any test failed.
set -uo pipefail
# Tests are of tiny models: with two threads a process, lanes take each other's cores for waiting.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
logs=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$logs"' EXIT

# Of the unit tests those that kill and restart processes, and those that search proteins.
restarts=(tests/unit/test_training_restart.py tests/unit/test_training_pack.py)
searches=(tests/unit/test_training_faults.py tests/unit/test_corpus_split.py)

tests() {
  python -m pytest --durations=10 "$@"
}

second() {
  local code=0
  tests "${restarts[@]}" || code=1
  tests tests/workflow || code=1
  return $code
}

third() {
  local code=0
  # The long part of the rehearsal: `make test-slurm`.
  tests tests/slurm -m "not rehearsal" || code=1
  tests "${searches[@]}" || code=1
  return $code
}

second >"$logs/second" 2>&1 &
workflows=$!
third >"$logs/third" 2>&1 &
slurm=$!
# Baselines and UniRep on the whole of the small data: `make test-bands`.
apart=("${restarts[@]}" "${searches[@]}")
tests tests/unit tests/gpu -m "not bands" "${apart[@]/#/--ignore=}"
code=$?
wait "$workflows" || code=1
printf '\nRestarts and workflows:\n'
cat "$logs/second"
wait "$slurm" || code=1
printf '\nSlurm, faults and the split:\n'
cat "$logs/third"
[ "$code" = 0 ] || exit 1
