#!/usr/bin/env bash
# Checks on every worker, before a run, the common causes of a failing start.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

summary="Checks on every worker: the same revision and packages, the recipe with its files, the
number of devices, write access to the workdir, and a sum over all devices."
example="tpu_scripts/preflight.sh --name big --zone us-east5-b --devices 512 -- \\
    configs/siglip_vit_b16.py --workdir gs://BUCKET/RUN"
resource_options
required devices N "number of chips of all slices together"
recipe_follows
parse "$@"
whole devices 1
workdir=$(recipe_workdir)
on_worker="bash vljax/tpu_scripts/worker/preflight.sh"

same_versions() {
  local answers kinds
  answers=$(on_workers ask "$on_worker versions")
  [[ ! ${value[dry-run]} ]] || return 0
  answers=$(sed -n 's/^worker //p' <<<"$answers")
  [[ $answers ]] || fail "no worker answered; setup.sh installs vljax"
  kinds=$(cut -d ' ' -f 2- <<<"$answers" | sort -u)
  if (($(wc -l <<<"$kinds") > 1)); then
    printf '%s\n' "$answers" >&2
    fail "the workers differ in revision or packages; setup.sh brings them to one state"
  fi
  echo "$(wc -l <<<"$answers") workers: $kinds"
}

same_versions
on_workers run "$on_worker recipe $(quote "${value[devices]}" "${recipe[@]}")"
on_workers run "$on_worker devices $(quote "${value[devices]}" "$workdir")"
