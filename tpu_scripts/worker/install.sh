#!/usr/bin/env bash
# install.sh SOURCE REVISION: runs in the home of a worker; checks out a revision of SOURCE (the URL
# of a git repository, or a bundle) in ~/vljax and installs it.
set -euo pipefail

source=$1
revision=$2
[[ ! -f $source ]] || source=$PWD/$source

mkdir -p vljax
cd vljax
git init -q
git fetch -q "$source" "$revision"
git checkout -q --detach FETCH_HEAD
if [[ ! -x .venv/bin/pip ]]; then
  # uv installs Python too: that of the TPU images is older than vljax needs.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --user uv
  python3 -m uv venv -q --seed --python 3.11 .venv
fi
# Editable, so that `run.json` has the revision; gcsfs for workdirs and data in gs://.
.venv/bin/pip install -q -c constraints.txt -e '.[tpu]' gcsfs
echo "worker $(hostname) installed $(git rev-parse --short HEAD)"
