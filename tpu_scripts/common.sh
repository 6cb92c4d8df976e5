# Shared by the scripts of this folder: options, --help, --dry-run, and commands on all workers.
# A script sets `summary` and `example`, declares its options and calls `parse "$@"`. Then it reads
# ${value[NAME]}, and ${recipe[@]} if it takes a recipe.
# shellcheck shell=bash

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash ${BASH_VERSION} is too old; bash 4.4 or newer is needed" >&2
  exit 2
fi

# Without it, set -e does not apply within $(...).
shopt -s inherit_errexit
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$scripts/.." || exit
# Dry runs print to this descriptor, also from within $(...).
exec 3>&1

summary=""
example=""
names=(help dry-run)
declare -A metavar=([help]="" [dry-run]="")
declare -A needed=()
declare -A about=([help]="print this" [dry-run]="print every command in order and run none")
declare -A value=([dry-run]="")
takes_recipe=
recipe=()

# Ends the script because of its arguments.
refuse() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# Ends the script because something went wrong.
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# required NAME METAVAR HELP
required() {
  optional "$1" "$2" "" "$3"
  needed[$1]=yes
}

# optional NAME METAVAR DEFAULT HELP
optional() {
  names+=("$1")
  metavar[$1]=$2
  value[$1]=$3
  about[$1]=$4
}

# flag NAME HELP
flag() {
  optional "$1" "" "" "$2"
}

# The options of every script that calls gcloud.
resource_options() {
  required name NAME "the queued resource"
  required zone ZONE "its zone, such as us-east5-b"
  optional project PROJECT "" "its project; by default gcloud's own"
}

# Declares that the script takes a recipe and its fields after `--`.
recipe_follows() {
  takes_recipe=yes
}

usage() {
  local name left
  printf 'Usage: tpu_scripts/%s [OPTIONS]%s\n\n%s\n\nOptions:\n' "${0##*/tpu_scripts/}" \
    "${takes_recipe:+ -- RECIPE [--FIELD VALUE ...]}" "$summary"
  for name in "${names[@]}"; do
    left="--$name ${metavar[$name]}"
    printf '  %-28s %s%s%s\n' "$left" "${about[$name]}" "${needed[$name]:+ (required)}" \
      "${value[$name]:+ (default: ${value[$name]})}"
  done
  printf '\nExample:\n  %s\n' "$example"
}

parse() {
  local name
  while (($#)); do
    name=${1#--}
    name=${name%%=*}
    if [[ $1 == -- && $takes_recipe ]]; then
      shift
      recipe=("$@")
      break
    elif [[ $1 == --help || $1 == -h ]]; then
      usage
      exit 0
    elif [[ $1 != --* || ! $name =~ ^[a-z-]+$ || ! ${metavar[$name]+known} ]]; then
      refuse "unknown argument '$1'; --help lists the options"
    elif [[ ! ${metavar[$name]} ]]; then
      [[ $1 != *=* ]] || refuse "--$name takes no value"
      value[$name]=yes
      shift
    elif [[ $1 == *=* ]]; then
      value[$name]=${1#*=}
      [[ ${value[$name]} ]] || refuse "--$name needs a value: ${about[$name]}"
      shift
    else
      [[ ${2---} != --* ]] || refuse "--$name needs a value: ${about[$name]}"
      value[$name]=$2
      shift 2
    fi
  done
  for name in "${names[@]}"; do
    [[ ! ${needed[$name]+set} || ${value[$name]} ]] ||
      refuse "--$name is missing: ${about[$name]}"
  done
  if [[ $takes_recipe ]]; then
    [[ ${recipe[0]--} != -* ]] ||
      refuse "RECIPE is missing: it comes after --, as in -- configs/siglip_vit_b16.py"
  fi
}

# whole NAME LEAST: checks that the option is a whole number, at least LEAST.
whole() {
  if [[ ! ${value[$1]} =~ ^(0|[1-9][0-9]{0,8})$ ]] || ((value[$1] < $2)); then
    refuse "--$1: '${value[$1]}' is not a whole number >= $2"
  fi
}

# Prints the workdir among the fields of the recipe; several workers must share it.
recipe_workdir() {
  local i
  for i in "${!recipe[@]}"; do
    case ${recipe[i]} in
      --workdir=?*) printf '%s' "${recipe[i]#*=}" && return ;;
      --workdir) [[ ${recipe[i + 1]-} ]] && printf '%s' "${recipe[i + 1]}" && return ;;
    esac
  done
  refuse "--workdir is missing after RECIPE: shared storage, as in --workdir gs://BUCKET/RUN"
}

# Prints the words as a line for a shell.
quote() {
  local word line="" single="'" escaped="'\\''"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//$single/$escaped}'"
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

# Prints a command: on standard output in a dry run, else on standard error.
announce() {
  if [[ ${value[dry-run]} ]]; then
    quote "$@" >&3
  else
    printf '+ %s\n' "$(quote "$@")" >&2
  fi
}

# Runs a command that changes something.
run() {
  announce "$@"
  [[ ${value[dry-run]} ]] || "$@"
}

# Runs a command that changes nothing, without printing it.
ask() {
  if [[ ${value[dry-run]} ]]; then
    announce "$@"
  else
    "$@"
  fi
}

# queued run|ask VERB ARGUMENT...: gcloud, in the zone and project of the options.
queued() {
  local how=$1 place=("--zone=${value[zone]}")
  shift
  [[ ! ${value[project]} ]] || place+=("--project=${value[project]}")
  "$how" gcloud compute tpus queued-resources "$@" "${place[@]}"
}

# on_workers run|ask LINE: runs a command line on every worker of every slice. All at once
# (--batch-size), because workers of one batch would wait forever for those of a later batch.
on_workers() {
  queued "$1" ssh "${value[name]}" --node=all --worker=all --batch-size=all "--command=$2"
}

# Prints the state of the queued resource in capitals, or MISSING. Fails if gcloud fails.
resource_state() {
  local errors state
  errors=$(mktemp)
  if state=$(queued ask describe "${value[name]}" "--format=value(state.state)" 2>"$errors"); then
    rm "$errors"
    printf '%s' "$state"
  elif grep -q NOT_FOUND "$errors"; then
    rm "$errors"
    printf MISSING
  else
    cat "$errors" >&2
    rm "$errors"
    return 1
  fi
}

# Prints a line HOST STATE for each worker. STATE is running, idle, ended EXIT_STATUS, or absent if
# vljax is not installed.
worker_states() {
  local status="bash vljax/tpu_scripts/worker/job.sh status 2>/dev/null"
  on_workers ask "$status || echo worker \$(hostname) absent" | sed -n 's/^worker //p'
}
