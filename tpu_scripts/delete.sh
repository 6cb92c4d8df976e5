#!/usr/bin/env bash
# Deletes a queued resource and its TPU VMs. The workdir of a run stays where it is.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

summary="Deletes a queued resource and its TPU VMs with their disks, after asking. It deletes
nothing in a bucket."
example="tpu_scripts/delete.sh --name big --zone us-east5-b"
resource_options
flag yes "delete without asking"
parse "$@"

if [[ ! ${value[yes]} && ! ${value[dry-run]} ]]; then
  [[ -t 0 ]] || refuse "--yes is missing: without a terminal the deletion cannot be confirmed"
  read -r -p "Delete ${value[name]} in ${value[zone]} and its TPU VMs? Type its name: " answer
  [[ $answer == "${value[name]}" ]] || fail "${value[name]} was not deleted"
fi
# --force deletes the TPU VMs first; gcloud refuses to delete a resource that has some.
queued run delete "${value[name]}" --force --quiet
