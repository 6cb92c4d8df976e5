#!/usr/bin/env bash
# Installs vljax on every worker, the same revision everywhere.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

summary="Waits until the slices exist and installs vljax in ~/vljax on every worker: the commit that
is checked out here, sent as a git bundle, or a revision of a git repository that the workers can
reach. Run it again to install another revision."
example="tpu_scripts/setup.sh --name big --zone us-east5-b"
resource_options
optional git URL "" "clone from this URL instead of sending this repository"
optional revision REVISION "" "branch, tag or commit of --git"
optional every SECONDS 30 "interval between checks of the queue"
parse "$@"
whole every 0
[[ ! ${value[git]} || ${value[revision]} ]] || refuse "--revision is missing: --git needs one"
[[ ${value[git]} || ! ${value[revision]} ]] || refuse "--git is missing: --revision needs it"

wait_until_active() {
  local state
  while :; do
    state=$(resource_state)
    [[ $state != ACTIVE && ! ${value[dry-run]} ]] || return 0
    case $state in
      MISSING | FAILED | SUSPENDING | SUSPENDED | DELETING)
        fail "${value[name]} is $state; create.sh or resume.sh makes a new one"
        ;;
    esac
    echo "${value[name]} is $state" >&2
    sleep "${value[every]}"
  done
}

copy() {
  queued run scp "$@" "${value[name]}:" --node=all --worker=all --batch-size=all
}

wait_until_active
if [[ ${value[git]} ]]; then
  copy tpu_scripts/worker/install.sh
  on_workers run "$(quote bash install.sh "${value[git]}" "${value[revision]}")"
else
  [[ ${value[dry-run]} || ! $(git status --porcelain) ]] ||
    fail "there are uncommitted changes, which would not reach the workers: git status"
  run mkdir -p build
  run git bundle create --quiet build/vljax.bundle HEAD
  copy build/vljax.bundle tpu_scripts/worker/install.sh
  on_workers run "bash install.sh vljax.bundle HEAD"
fi
