#!/usr/bin/env bash
# Trains on the GPUs of one node.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

summary="Trains on the GPUs of one node: one process uses all of them, or N processes use one each."
example="tpu_scripts/gpu/single_node.sh --processes 8 -- configs/siglip_vit_b16.py --workdir DIR"
optional processes N 1 "number of processes; if more than one, each uses the GPU with its index"
optional port PORT 8476 "port of process 0, to which the others connect"
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
# stop STATUS: signals the processes, which agree on a step at which they save and stop.
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
    # In its own session: otherwise Ctrl-C would reach it in addition to the SIGTERM from here.
    setsid "${command[@]}" &
    running+=($!)
  fi
done

left=${#running[@]}
while ((left)); do
  code=0
  signalled=
  wait -n || code=$?
  [[ ! $signalled ]] || continue # the signal ended the wait, not a process
  left=$((left - 1))
  # The others would wait for a process that failed.
  ((code == 0 || status)) || stop "$code"
done
exit "$status"
