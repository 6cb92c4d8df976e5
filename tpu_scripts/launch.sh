#!/usr/bin/env bash
# Starts a training run on all workers.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

summary="Starts python train.py RECIPE ... on all workers and returns; the run continues without the
connection. It refuses if a run is under way. The same command resumes a run from its workdir."
example="tpu_scripts/launch.sh --name big --zone us-east5-b -- \\
    configs/siglip_vit_b16.py --mesh.fsdp 16 --workdir gs://BUCKET/RUN"
resource_options
recipe_follows
parse "$@"
recipe_workdir >/dev/null

states=$(worker_states)
if grep -q ' running$' <<<"$states"; then
  host=$(sed -n 's/ running$//p' <<<"$states" | head -n 1)
  fail "a run is under way on $host; stop.sh ends it"
fi
on_workers run "$(quote bash vljax/tpu_scripts/worker/job.sh start "${recipe[@]}")"
