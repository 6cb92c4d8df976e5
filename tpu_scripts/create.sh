#!/usr/bin/env bash
# Requests TPU slices as one queued resource.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

summary="Requests TPU slices as one queued resource. It returns when the request is queued;
setup.sh waits until the slices exist."
example="tpu_scripts/create.sh --name big --zone us-east5-b --accelerator-type v6e-256 \\
    --runtime-version v2-alpha-tpuv6e --slices 2 --spot"
resource_options
required accelerator-type TYPE "type of a slice, such as v5litepod-256, v5p-128, v6e-256"
required runtime-version VERSION "v2-alpha-tpuv6e, v2-alpha-tpuv5, v2-alpha-tpuv5-lite, ..."
optional slices N 1 "number of slices"
flag spot "spot capacity, which can be preempted at any time"
flag reserved "capacity from a reservation of the project"
optional network NETWORK "" "network of the workers"
optional service-account ACCOUNT "" "account of the workers, for instance to access the bucket"
parse "$@"
whole slices 1
[[ ! ${value[spot]} || ! ${value[reserved]} ]] || refuse "--spot and --reserved exclude each other"

arguments=("--accelerator-type=${value[accelerator-type]}"
  "--runtime-version=${value[runtime-version]}")
if ((value[slices] == 1)); then
  arguments+=("--node-id=${value[name]}")
else
  arguments+=("--node-count=${value[slices]}" "--node-prefix=${value[name]}")
fi
[[ ! ${value[spot]} ]] || arguments+=(--spot)
[[ ! ${value[reserved]} ]] || arguments+=(--reserved)
[[ ! ${value[network]} ]] || arguments+=("--network=${value[network]}")
[[ ! ${value[service-account]} ]] || arguments+=("--service-account=${value[service-account]}")
queued run create "${value[name]}" "${arguments[@]}"
