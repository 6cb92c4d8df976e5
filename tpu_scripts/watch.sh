#!/usr/bin/env bash
# Shows the progress of a run.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

summary="Shows the state of the resource, the end of worker 0's log and the last row of metrics."
example="tpu_scripts/watch.sh --name big --zone us-east5-b --workdir gs://BUCKET/RUN --every 60"
resource_options
required workdir DIR "the workdir of the run"
optional every SECONDS "" "repeat at this interval; by default once"
parse "$@"
[[ ! ${value[every]} ]] || whole every 1

look() {
  local state
  state=$(resource_state)
  [[ ${value[dry-run]} ]] || echo "${value[name]}: $state"
  if [[ ${value[dry-run]} || $state == ACTIVE ]]; then
    queued ask ssh "${value[name]}" --node=0 --worker=0 \
      "--command=$(quote bash vljax/tpu_scripts/worker/job.sh report "${value[workdir]}")"
  fi
}

if [[ ! ${value[every]} || ${value[dry-run]} ]]; then
  look
  exit
fi
while :; do
  look || true # the workers may be gone for a while
  sleep "${value[every]}"
done
