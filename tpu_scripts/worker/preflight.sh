#!/usr/bin/env bash
# preflight.sh versions | recipe DEVICES RECIPE... | devices DEVICES WORKDIR: runs on a worker.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Prints a line that has to be the same on all workers.
versions() {
  local revision packages jax
  revision=$(git describe --always --dirty=+ --exclude='*')
  packages=$(.venv/bin/pip freeze --exclude-editable)
  jax=$(sed -n 's/^jax==//p' <<<"$packages")
  echo "revision $revision, $(.venv/bin/python --version), jax $jax," \
    "packages $(sha256sum <<<"$packages" | cut -c 1-12)"
}

# Checks that the recipe is valid for this number of devices and finds its files on this worker. It
# uses virtual CPU devices, compiles nothing, and does not touch the accelerators.
recipe() {
  local report
  report=$(JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$1 \
    .venv/bin/vljax check "${@:2}" --distributed.kind none --json -)
  .venv/bin/python -c '
import json, sys
if unset := json.load(sys.stdin)["unset"]:
    print(f"error: {sys.argv[1]} needs --{unset[0]} to train", file=sys.stderr)
    sys.exit(2)
' "$2" <<<"$report"
  echo "recipe is valid on $1 devices"
}

devices() {
  .venv/bin/python tpu_scripts/worker/preflight.py --devices "$1" --workdir "$2"
}

command=$1
shift
case $command in
  versions | recipe | devices)
    answer=$("$command" "$@")
    echo "worker $(hostname) $answer"
    ;;
  *)
    echo "error: unknown command '$command' of tpu_scripts/worker/preflight.sh" >&2
    exit 2
    ;;
esac
