#!/usr/bin/env bash
# Saves and stops the run on all workers.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

summary="Stops the run on all workers: sends SIGTERM, so that all save at the same step, and SIGKILL
to processes that still run after the time limit."
example="tpu_scripts/stop.sh --name big --zone us-east5-b"
resource_options
optional limit SECONDS 300 "time limit for saving"
parse "$@"
whole limit 0

on_workers run "bash vljax/tpu_scripts/worker/job.sh stop ${value[limit]}"
