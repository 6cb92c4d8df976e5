#!/usr/bin/env bash
#SBATCH --job-name=vljax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
# A batch script for SLURM; options for sbatch come before it.
set -euo pipefail
# SLURM runs a copy of this file in another folder.
# shellcheck source=tpu_scripts/common.sh
source "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/../..}/tpu_scripts/common.sh"

summary="Trains on the nodes of a SLURM job; submit it from the root of the repository. One process
uses all GPUs of a node (--ntasks-per-node=1) or one of them (--ntasks-per-node=GPUS). 5 minutes
before the time limit, the run saves, and the job queues again."
example="sbatch --nodes=4 tpu_scripts/gpu/slurm.sh -- configs/siglip_vit_b16.py --workdir DIR"
optional python PATH python "the Python with vljax"
recipe_follows
parse "$@"
recipe_workdir >/dev/null

command=(srun --kill-on-bad-exit=1 "${value[python]}" train.py "${recipe[@]}"
  --distributed.kind slurm)
announce "${command[@]}"
[[ ! ${value[dry-run]} ]] || exit 0

# On SIGTERM, srun itself would kill the processes; scancel only signals them, so that they save.
time_is_over=
trap 'time_is_over=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
"${command[@]}" &
status=0
wait $! || status=$?
if [[ $time_is_over ]]; then # the signal ended the first wait
  status=0
  wait $! || status=$?
  ((status != 143)) || run scontrol requeue "$SLURM_JOB_ID" # stopped by SIGTERM
fi
exit "$status"
