#!/usr/bin/env bash
# Restarts a run after preemptions and failures until it has finished.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

summary="Restarts a run until it has finished: creates a queued resource again that was preempted or
failed, sets up the workers, and starts the same command, which resumes from the last checkpoint.
Checks every --every seconds; the interval doubles with each failure in a row, up to half an hour."
example="tpu_scripts/resume.sh --name big --zone us-east5-b --accelerator-type v6e-256 \\
    --runtime-version v2-alpha-tpuv6e --spot -- configs/siglip_vit_b16.py --workdir gs://BUCKET/RUN"
resource_options
required accelerator-type TYPE "as for create.sh"
required runtime-version VERSION "as for create.sh"
optional slices N 1 "as for create.sh"
flag spot "as for create.sh"
flag reserved "as for create.sh"
optional network NETWORK "" "as for create.sh"
optional service-account ACCOUNT "" "as for create.sh"
optional git URL "" "as for setup.sh"
optional revision REVISION "" "as for setup.sh"
optional every SECONDS 60 "interval between checks"
optional attempts N 10 "number of failures in a row after which it gives up"
recipe_follows
parse "$@"
whole slices 1
whole every 0
whole attempts 1
recipe_workdir >/dev/null

longest_pause=1800
# A run that lived this long, in seconds, resets the count of failures.
stable=1800
failures=0
launched=0

# step SCRIPT OPTION...: runs another script with those options of this one.
step() {
  local script=$1 name arguments=()
  shift
  for name in name zone project dry-run "$@"; do
    [[ ! ${value[$name]} ]] || arguments+=("--$name${metavar[$name]:+=${value[$name]}}")
  done
  case $script in
    delete.sh) arguments+=(--yes) ;;
    launch.sh) arguments+=(-- "${recipe[@]}") ;;
  esac
  "$scripts/$script" "${arguments[@]}"
}

create() {
  step create.sh accelerator-type runtime-version slices spot reserved network service-account
}

start() {
  step setup.sh git revision && step launch.sh && launched=$SECONDS
}

# Prints the state of the run, from those of its workers: running, finished, none or broken.
run_state() {
  local states
  states=$(worker_states | cut -d ' ' -f 2- | sort -u) || return
  case ${states//$'\n'/,} in
    running | "ended 0,running") echo running ;; # the others are about to end
    "ended 0") echo finished ;;
    absent | idle | absent,idle | "") echo none ;;
    *) echo broken ;;
  esac
}

say() {
  printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >&2
}

# failed WHAT: counts a failure; gives up after too many.
failed() {
  failures=$((failures + 1))
  ((failures < value[attempts])) || fail "gave up after $failures failures in a row; the last: $1"
  say "$1; failure $failures in a row"
}

pause() {
  local seconds=$((value[every] << (failures < 12 ? failures : 12)))
  sleep $((seconds < longest_pause ? seconds : longest_pause))
}

tend_run() {
  local state
  if ! state=$(run_state); then
    failed "the workers cannot be reached"
    return
  fi
  say "${value[name]} is ACTIVE, the run is $state"
  case $state in
    running)
      ((SECONDS - launched <= stable)) || failures=0
      return
      ;;
    finished)
      say "delete.sh releases the TPUs"
      exit 0
      ;;
    broken)
      failed "the run ended before its last step"
      step stop.sh || true # workers that still run wait for those that have ended
      ;;
  esac
  start || failed "the run could not be started"
}

tend() {
  local state
  if ! state=$(resource_state); then
    failed "the state of ${value[name]} is not known"
    return
  fi
  case $state in
    ACTIVE) tend_run ;;
    MISSING) create || failed "${value[name]} could not be created" ;;
    SUSPENDED | FAILED | PREEMPTED)
      say "${value[name]} is $state"
      [[ $state != FAILED ]] || failed "the request for ${value[name]} failed"
      if ! step delete.sh || ! create; then
        failed "${value[name]} could not be created again"
      fi
      ;;
    *) say "${value[name]} is $state" ;;
  esac
}

if [[ ${value[dry-run]} ]]; then # the commands from a preempted resource to a running one
  resource_state
  step delete.sh
  create
  resource_state
  worker_states
  start
  exit
fi
while :; do
  tend
  pause
done
