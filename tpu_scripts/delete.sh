#!/usr/bin/env bash
# Deletes a queued resource and its TPU VMs. The workdir of a run stays where it is.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

summary="Deletes a queued resource and its TPU VMs with all that is on their disks, after asking.
Nothing in a bucket is touched."
example="tpu_scripts/delete.sh --name big --zone us-east5-b"
resource_options
flag yes "do not ask"
parse "$@"

if [[ ! ${value[yes]} && ! ${value[dry-run]} ]]; then
  [[ -t 0 ]] || refuse "--yes is missing: nobody is there to be asked whether ${value[name]} may go"
  read -r -p "Delete ${value[name]} in ${value[zone]} and its TPU VMs? Type its name: " answer
  [[ $answer == "${value[name]}" ]] || fail "${value[name]} was not deleted"
fi
# --force: the TPU VMs first, without which the resource cannot go.
queued run delete "${value[name]}" --force --quiet
