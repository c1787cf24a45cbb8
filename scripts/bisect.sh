#!/usr/bin/env bash
# Finds the commit that made a figure of the server change, by pairs of runs that are added where they tell most.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/bisect.sh GOOD BAD [--metric METRIC] [--scenario NAME] [--confidence SHARE] [--most-pairs N]
                         [--engine NAME] [--duration TIME] [--warmup TIME] [--folder DIR] [-- FLAGS OF duel]

  GOOD BAD             what git knows as a commit: before the change, and with it
  --metric METRIC      throughput, server-cpu (default), memory, p50 or p99
  --scenario NAME      echo (default), pipeline, text, large, tcp, ...
  --confidence SHARE   the probability at which a commit is named (default 0.995)
  --most-pairs N       pairs after which it ends in any case (default 400)
  --engine NAME        of both servers: uring, epoll or tokio-uring (default: uring, or epoll where io_uring is refused)
  --duration TIME      measured window of a run (default 600ms); --warmup TIME before it (default 300ms)
  --folder DIR         state and sessions (default: beside the build, in bisect/GOOD-BAD-METRIC-SCENARIO)

Compares GOOD with one commit after the other (scripts/ab.sh, which builds each once), and ends with a commit and a
probability. Only commits that change the server's sources are candidates, along the first parents of a merge. A commit that does
not build is left out. The same command continues a bisection that was interrupted. The checkout stays as it is.

Exit codes: 0 a commit is named; 1 error; 2 usage; 12 GOOD and BAD do not differ, or the most pairs were not enough; 130,
143, 129 ended by SIGINT (Ctrl-C), SIGTERM, SIGHUP.
TEXT
}

fail() {
    printf 'bisect.sh: %s\n' "$@" >&2
    exit 1
}

usage_error() {
    printf 'bisect.sh: %s; see scripts/bisect.sh --help\n' "$1" >&2
    exit 2
}

revisions=() begin=() ab=() duel=()
metric=server-cpu scenario=echo folder=""
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    --metric | --scenario | --confidence | --most-pairs | --engine | --duration | --warmup | --folder)
        [ $# -ge 2 ] || usage_error "$1 needs a value"
        case "$1" in
        --metric) metric=$2 ;;
        --scenario) scenario=$2 ;;
        --folder) folder=$(realpath -m -- "$2") ;;
        --confidence | --most-pairs) begin+=("$1" "$2") ;;
        *) ab+=("$1" "$2") ;;
        esac
        shift
        ;;
    --)
        shift
        duel+=("$@")
        break
        ;;
    -*) usage_error "unknown flag: $1" ;;
    *) revisions+=("$1") ;;
    esac
    shift
done
[ ${#revisions[@]} -eq 2 ] || usage_error "two revisions are needed, ${#revisions[@]} were given"
case $metric in
throughput | server-cpu | memory) duel=(--saturation-only "${duel[@]}") ;;
p50 | p99) ;;
*) usage_error "--metric $metric: one of throughput, server-cpu, memory, p50, p99" ;;
esac

root=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/.." && pwd)
cd -- "$root"
export PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
target=$(realpath -m -- "${CARGO_TARGET_DIR:-$root/target}")
command -v git >/dev/null || fail "needs git"

commit_of() {
    git rev-parse --verify --quiet --end-of-options "$1^{commit}" ||
        fail "git knows no revision \`$1\`; in a shallow clone: git fetch --unshallow"
}

good=$(commit_of "${revisions[0]}")
bad=$(commit_of "${revisions[1]}")
git merge-base --is-ancestor "$good" "$bad" || fail "${revisions[0]} is no ancestor of ${revisions[1]}"
mapfile -t commits < <(git rev-list --reverse --first-parent "$good..$bad" -- engine protocol server Cargo.toml Cargo.lock rust-toolchain.toml)
[ ${#commits[@]} -gt 0 ] || fail "no commit after ${revisions[0]} and up to ${revisions[1]} changes the server's sources"
folder=${folder:-$target/bisect/${good:0:12}-${bad:0:12}-$metric-$scenario}
state=$folder/state.json
mkdir -p -- "$folder"

if [ -n "${SPARRING_LOADGEN:-}" ]; then
    generator=$SPARRING_LOADGEN
else
    command -v cargo >/dev/null || fail "needs a Rust toolchain: scripts/bench.sh says how to install one"
    echo "building the generator of this checkout ..."
    cargo build --quiet --locked --release -p sparring-loadgen || fail "the generator does not build; the compiler's output is above"
    generator=$target/release/sparring-loadgen
fi
if [ -e "$state" ]; then
    echo "continuing $state"
else
    echo "candidates: ${#commits[@]}"
    "$generator" bisect begin "$state" "$good" "${commits[@]}" --metric "$metric" --scenario "$scenario" "${begin[@]}" || exit $?
fi

# The newest session: names begin with the time.
newest() {
    find "$folder" -mindepth 2 -name '*.json' -printf '%f %p\n' | sort | tail -n 1 | cut -d ' ' -f 2-
}

# measure COMMIT PAIRS: adds a duel of GOOD and the commit, or leaves the commit out where it does not build.
measure() {
    local commit=$1 pairs=$2 before after code=0
    before=$(newest)
    printf '\n--- %s %s\n' "${commit:0:12}" "$(git log -1 --format=%s "$commit")"
    scripts/ab.sh "$good" "$commit" --bisect --scenario "$scenario" --only "$metric" --pairs "$pairs" \
        --results "$folder" "${ab[@]}" -- "${duel[@]}" || code=$?
    case $code in
    129 | 130 | 143) exit "$code" ;;
    0 | 11 | 125) ;;
    *) fail "the duel failed, see above; the same command continues" ;;
    esac
    after=$(newest)
    if [ "$after" != "$before" ]; then
        "$generator" bisect add "$state" "$after" && return
    fi
    if [ "$commit" = "${commits[-1]}" ]; then
        fail "${revisions[1]} cannot be measured, see above"
    fi
    echo "${commit:0:12} cannot be measured and is left out"
    "$generator" bisect skip "$state" "$commit"
}

while :; do
    read -r -a step < <("$generator" bisect next "$state") || fail "$state cannot be read"
    case ${step[0]} in
    measure) measure "${step[1]}" "${step[2]}" ;;
    found)
        printf '\nprobability %s:\n' "${step[1]}"
        git log --no-walk=unsorted --format='%h %s' "${step[@]:2}"
        exit 0
        ;;
    *) exit 12 ;;
    esac
done
