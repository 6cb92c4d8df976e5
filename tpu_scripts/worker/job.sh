#!/usr/bin/env bash
# job.sh status | start ARGUMENT... | stop SECONDS | report WORKDIR: controls the training run of a
# worker, on that worker. There is one run at a time; a lock is held as long as it runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
job=tpu_scripts/worker/job.sh
state=runs/job
mkdir -p "$state"

status() {
  if ! flock -n "$state/lock" true; then
    echo running
  elif [[ -f $state/exit_status ]]; then
    echo "ended $(<"$state/exit_status")"
  else
    echo idle
  fi
}

start() {
  local log
  log=$(date -u +%Y%m%dT%H%M%SZ).log
  exec 9>"$state/lock"
  if ! flock -n 9; then
    echo "error: a run is under way on $(hostname)" >&2
    exit 1
  fi
  rm -f "$state/pid"
  echo 1 >"$state/exit_status" # remains if the machine goes down
  ln -sfn "$log" "$state/latest.log"
  # The run inherits descriptor 9, and with it the lock.
  nohup setsid bash "$job" run "$@" >"$state/$log" 2>&1 </dev/null &
  echo "worker $(hostname) started: $state/$log"
}

run() {
  local code=0
  .venv/bin/python train.py "$@" &
  echo $! >"$state/pid"
  wait $! || code=$?
  echo "$code" >"$state/exit_status"
}

stop() {
  while [[ $(status) == running && ! -s $state/pid ]]; do
    sleep 0.1 # it is just starting
  done
  if [[ $(status) == running ]]; then
    kill -TERM "$(<"$state/pid")" || true # it may have ended just now
    flock -w "$1" "$state/lock" true || kill -KILL "$(<"$state/pid")"
    flock "$state/lock" true
  fi
  echo "worker $(hostname) $(status)"
}

report() {
  status
  [[ -e $state/latest.log ]] || return 0
  tail -n 20 "$state/latest.log"
  # It only reads files: the accelerators belong to the run.
  JAX_PLATFORMS=cpu .venv/bin/python - "$1" <<'PYTHON'
import json, sys
from vljax.training.metrics import read

rows = read(sys.argv[1])
print(json.dumps(rows[-1]) if rows else f"{sys.argv[1]} has no metrics yet")
PYTHON
}

command=$1
shift
case $command in
  status) echo "worker $(hostname) $(status)" ;;
  start | run | stop | report) "$command" "$@" ;;
  *)
    echo "error: unknown command '$command' of $job" >&2
    exit 2
    ;;
esac
