#!/usr/bin/env bash
# Stops the run on all workers after it has saved.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

summary="Stops the run on all workers: SIGTERM, upon which all save at one step; SIGKILL for what
still runs after the time limit."
example="tpu_scripts/stop.sh --name big --zone us-east5-b"
resource_options
optional limit SECONDS 300 "time limit"
parse "$@"
whole limit 0

on_workers run "bash vljax/tpu_scripts/worker/job.sh stop ${value[limit]}"
