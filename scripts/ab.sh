#!/usr/bin/env bash
# Builds the server of two revisions and compares them in interleaved pairs of runs, driven by one generator.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/ab.sh REV_A REV_B [--scenario NAME]... [--pairs N] [--duration TIME] [--warmup TIME] [--engine NAME]
                     [--only METRIC]... [--confirm] [--fail-inconclusive] [--bisect] [--results DIR] [-- FLAGS OF duel]

  REV_A, REV_B         what git knows as a commit, or `.` for the working tree as it is (uncommitted changes included)
  --scenario NAME      echo (default), pipeline, text, large, tcp, ...; may be repeated, each is compared by itself
  --pairs N            pairs of runs (default 20; fewer than 8 decide nothing)
  --duration TIME      measured window of a run (default 600ms); --warmup TIME before it (default 300ms)
  --engine NAME        of both servers: uring, epoll or tokio-uring (default: uring, or epoll where io_uring is refused)
  --only METRIC        judge throughput, server-cpu, memory, p50 or p99 alone and show the others; may be repeated
  --confirm            a regression counts only where a second session finds it too
  --fail-inconclusive  exit with 12 where nothing can be said
  --bisect             exit codes for `git bisect run`: 0 good, 11 bad, 125 REV_B cannot be judged (does not build, invalid,
                       inconclusive, error), 128 nothing can be (wrong usage, REV_A): ends the bisection
  --results DIR        where the sessions are stored (default: bench-results)

The flags are checked before a server is built. Both servers are built in release profile, by commit and once: they are
kept beside the build, in ab/COMMIT. The commit that is checked out is built in the build folder itself, so that what it
has is not built again. The generator is this checkout's for both sides. Needs git, a Rust toolchain and a C compiler; no root.

  scripts/ab.sh main .                                        did my changes make it slower?
  scripts/ab.sh v1 v2 --scenario echo --scenario pipeline
  git worktree add --detach ../other && git bisect start BAD GOOD &&
      git bisect run sh -c '../other/scripts/ab.sh --bisect --only server-cpu GOOD "$(git rev-parse HEAD)"'

Exit codes: 0 not regressed; 1 error, a server that fails in every attempt, or a wrong echo; 2 usage; 11 regressed; 12
inconclusive (when asked for); 13 invalid; 130, 143, 129 ended by SIGINT (Ctrl-C), SIGTERM, SIGHUP.
TEXT
}

# The codes of wrong usage, of errors, and of errors of REV_B: `git bisect` skips at 125, ends above 127, and takes all else for bad.
# Looked for first, since the flag may stand behind one that is wrong.
bisect=no
usage=2 error=1 error_b=1
for word in "$@"; do
    case "$word" in
    --) break ;;
    --bisect) bisect=yes usage=128 error=128 error_b=125 ;;
    esac
done

fail() {
    printf 'ab.sh: %s\n' "$@" >&2
    exit "$error"
}

usage_error() {
    printf 'ab.sh: %s; see scripts/ab.sh --help\n' "$1" >&2
    exit "$usage"
}

revisions=()
scenarios=()
flags=()
pairs=20
duration=600ms
warmup=300ms
engine=""
results=""
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    --scenario | --pairs | --duration | --warmup | --engine | --only | --results)
        [ $# -ge 2 ] || usage_error "$1 needs a value"
        case "$1" in
        --scenario) scenarios+=("$2") ;;
        --pairs) pairs=$2 ;;
        --duration) duration=$2 ;;
        --warmup) warmup=$2 ;;
        --engine) engine=$2 ;;
        --only) flags+=(--only "$2") ;;
        --results) results=$(realpath -m -- "$2") ;;
        esac
        shift
        ;;
    --confirm | --fail-inconclusive) flags+=("$1") ;;
    --bisect) flags+=(--fail-inconclusive) ;;
    --)
        shift
        flags+=("$@")
        break
        ;;
    -*) usage_error "unknown flag: $1" ;;
    *) revisions+=("$1") ;;
    esac
    shift
done
[ ${#revisions[@]} -eq 2 ] || usage_error "two revisions are needed, ${#revisions[@]} were given"
[ ${#scenarios[@]} -gt 0 ] || scenarios=(echo)

root=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/.." && pwd)
cd -- "$root"
export PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
target=$(realpath -m -- "${CARGO_TARGET_DIR:-$root/target}")
cache=$target/ab
results=${results:-$root/bench-results}
command -v git >/dev/null || fail "needs git"
command -v cargo >/dev/null || fail "needs a Rust toolchain: scripts/bench.sh says how to install one"
git rev-parse --git-dir >/dev/null 2>&1 || fail "this is no git checkout: there are no revisions to compare"

# Whether the sources of the server are those of the commit that is checked out.
is_clean() {
    [ -z "$(git status --porcelain -- engine protocol server Cargo.toml Cargo.lock rust-toolchain.toml .cargo)" ]
}

# The commit that a revision names. Of the working tree it is empty where the sources differ from their commit.
commit_of() {
    if [ "$1" = . ]; then
        is_clean && git rev-parse HEAD
        return 0
    fi
    git rev-parse --verify --quiet --end-of-options "$1^{commit}" ||
        fail "git knows no revision \`$1\`; in a shallow clone: git fetch --unshallow"
}

# build_here PACKAGE FOLDER: builds in the current directory, and copies the program, so that a later build does not replace it.
build_here() {
    local name=$1 into=$2
    CARGO_TARGET_DIR=$3 cargo build --quiet --locked --release -p "$name" || return 1
    mkdir -p -- "$into"
    cp -- "$3/release/$name" "$into/$name.partial"
    mv -- "$into/$name.partial" "$into/$name"
}

worktree=""
remove_worktree() {
    [ -z "$worktree" ] || git worktree remove --force -- "$worktree" 2>/dev/null || true
    worktree=""
}
trap remove_worktree EXIT

# server_of REVISION COMMIT: builds its server unless it has been built before, and leaves its path in `server`.
server_of() {
    local revision=$1 commit=$2
    if [ -z "$commit" ]; then
        echo "building the server of the working tree ..."
        build_here sparring-server "$cache/working-tree" "$target" ||
            fail "the working tree does not build; the compiler's output is above"
        server=$cache/working-tree/sparring-server
        return
    fi
    server=$cache/$commit/sparring-server
    if [ -x "$server" ]; then
        return
    fi
    if [ "$commit" = "$(git rev-parse HEAD)" ] && is_clean; then
        # cargo decides whether what stands in the build folder is of these sources and flags.
        echo "building the server of $revision (${commit:0:12}), which is checked out ..."
        build_here sparring-server "$cache/$commit" "$target" ||
            fail "$revision (${commit:0:12}) does not build; the compiler's output is above"
        return
    fi
    echo "building the server of $revision (${commit:0:12}) ..."
    worktree=$cache/worktree-$$
    git worktree prune
    git worktree add --quiet --detach "$worktree" "$commit" || fail "cannot check $revision out"
    (cd -- "$worktree" && build_here sparring-server "$cache/$commit" "$cache/build") ||
        fail "$revision (${commit:0:12}) does not build; the compiler's output is above"
    remove_worktree
}

# duel_of SCENARIO A B FLAG...: the duel of two commands.
duel_of() {
    local scenario=$1 a=$2 b=$3
    shift 3
    "$generator" duel "$a" "$b" --scenario "$scenario" --pairs "$pairs" -d "$duration" -w "$warmup" --results "$results" \
        --tag "ab-$scenario" "${flags[@]}" "$@"
}

# Revisions and flags first: what is wrong with them is not to be said minutes later.
commit_a=$(commit_of "${revisions[0]}")
commit_b=$(commit_of "${revisions[1]}")
case $engine in
"" | uring | epoll | tokio-uring) ;;
*) usage_error "--engine $engine: one of uring, epoll, tokio-uring" ;;
esac
echo "building the generator of this checkout ..."
build_here sparring-loadgen "$cache/generator" "$target" || fail "the generator does not build; the compiler's output is above"
generator=$cache/generator/sparring-loadgen
for scenario in "${scenarios[@]}"; do
    duel_of "$scenario" "server {port}" "server {port}" --dry-run --quiet || exit "$usage"
done
server_of "${revisions[0]}" "$commit_a"
server_a=$server
general_error=$error
error=$error_b
server_of "${revisions[1]}" "$commit_b"
server_b=$server
error=$general_error
if [ -z "$engine" ]; then
    engine=epoll
    # Not a pipe into `grep -q`, which closes it early: then the program would fail, and so would the pipe.
    facts=$("$generator" --version --verbose)
    [[ "$facts" != *"engine uring: available"* ]] || engine=uring
fi

# The worst of two exit codes: regressed, invalid, inconclusive, fine.
worse() {
    local code
    for code in 11 13 12; do
        if [ "$1" = $code ] || [ "$2" = $code ]; then
            echo $code
            return
        fi
    done
    echo 0
}

outcome=0
for scenario in "${scenarios[@]}"; do
    protocol=ws
    [[ "$scenario" != tcp* ]] || protocol=tcp
    serve="--listen 127.0.0.1:{port} --threads 1 --engine $engine --protocol $protocol --stats"
    printf '\n=== %s: %s against %s\n' "$scenario" "${revisions[1]}" "${revisions[0]}"
    code=0
    duel_of "$scenario" "'$server_a' $serve" "'$server_b' $serve" || code=$?
    case $code in
    0 | 11 | 12 | 13) outcome=$(worse "$outcome" "$code") ;;
    129 | 130 | 143) exit "$code" ;;
    2) exit "$usage" ;;
    *) exit "$error_b" ;;
    esac
done
if [ $bisect = yes ] && [ "$outcome" != 0 ] && [ "$outcome" != 11 ]; then
    outcome=125
fi
exit "$outcome"
