#!/usr/bin/env bash
# Trains on the GPUs of one node.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

summary="Trains on the GPUs of one node: one process drives all of them, or N processes one each."
example="tpu_scripts/gpu/single_node.sh --processes 8 -- configs/siglip_vit_b16.py --workdir DIR"
optional processes N 1 "number of processes; with more than one, each drives the GPU of its number"
optional port PORT 8476 "of process 0, at which the others meet it"
optional python PATH python "the Python with vljax"
recipe_follows
parse "$@"
whole processes 1
whole port 1

train=("${value[python]}" train.py "${recipe[@]}")
if ((value[processes] == 1)); then
  run "${train[@]}"
  exit
fi
recipe_workdir >/dev/null

running=()
status=0
# stop STATUS: the processes agree on the step at which they save and stop.
stop() {
  status=$1
  signalled=yes
  kill -TERM "${running[@]}" 2>/dev/null || true
}
trap 'stop 130' INT
trap 'stop 143' TERM

for ((i = 0; i < value[processes]; i++)); do
  command=(env "JAX_LOCAL_DEVICE_IDS=$i" "${train[@]}" --distributed.kind explicit
    --distributed.coordinator "127.0.0.1:${value[port]}"
    --distributed.processes "${value[processes]}" --distributed.process "$i")
  announce "${command[@]}"
  if [[ ! ${value[dry-run]} ]]; then
    # A session of its own: Ctrl-C must not reach it beside the SIGTERM from here.
    setsid "${command[@]}" &
    running+=($!)
  fi
done

left=${#running[@]}
while ((left)); do
  code=0
  signalled=
  wait -n || code=$?
  [[ ! $signalled ]] || continue # which ended the wait, not a process
  left=$((left - 1))
  # The others would wait in vain for one that failed.
  ((code == 0 || status)) || stop "$code"
done
exit "$status"
