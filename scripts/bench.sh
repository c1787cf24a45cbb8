#!/usr/bin/env bash
# Builds server and generator, runs an experiment, stores the result and prints its table.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/bench.sh [quick|full|smoke|build] [--rounds N] [--scenarios A,B] [--tag NAME] [--engine uring|epoll]
                        [--arm NAME=COMMAND]... [--duration TIME] [--warmup TIME] [--congestion NAME] [--results DIR]
                        [--resume FILE]
       scripts/engines.sh [...]            the engines side by side; it has a help of its own
       scripts/peers.sh [...]              other people's servers beside ours; it has one too

  quick   the main scenarios in six short rounds, about a minute of measuring (the default)
  full    all scenarios in ten short rounds, some minutes (printed before it starts)
  smoke   the main scenarios for a moment: checks that everything works, not how fast
  build   checks and builds what a session needs, and measures nothing

  --rounds N           runs of each scenario; six are the fewest that bound an interval
  --scenarios A,B      these scenarios alone
  --tag NAME           a name for the session, part of its file's name
  --engine NAME        engine of both sides; default: uring, or epoll (and said so) where io_uring is refused
  --arm NAME=COMMAND   another server beside ours; {port} in the command is where its port goes
  --duration TIME, --warmup TIME   times of each run; sessions of other times do not compare
  --congestion NAME    congestion control of every connection; default: the kernel's
  --results DIR        where to store; default: bench-results (smoke: smoke-results beside the build)
  --resume FILE        resume an interrupted session of the same flags

Works from any directory and needs no root; only a Rust toolchain and a C compiler.
A run that failed, is invalid or was disturbed is repeated: at most twice, and in a session at most half of the runs
(a quarter for a disturbance). The output names it. What was measured is stored, whatever ends the session; it goes to
standard output where it cannot be stored.
Exit codes: 0 fine; 1 error, a server that fails in every attempt, or a wrong echo; 2 usage; 13 a scenario has no valid run,
also after repeats; 130, 143, 129 ended by SIGINT (Ctrl-C), SIGTERM, SIGHUP.
TEXT
}

# The first line says what is wrong, the others are there to be copied.
fail() {
    printf 'bench.sh: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '%s\n' "$@" >&2
    exit 1
}

usage_error() {
    printf 'bench.sh: %s; see scripts/bench.sh --help\n' "$1" >&2
    exit 2
}

# The command that installs Debian's packages $1, or those called $2 to $4 by Fedora, Arch and Alpine.
install_command() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo "
    if command -v apt-get >/dev/null; then
        echo "${sudo}apt-get install -y $1"
    elif command -v dnf >/dev/null; then
        echo "${sudo}dnf install -y $2"
    elif command -v pacman >/dev/null; then
        echo "${sudo}pacman -S --noconfirm $3"
    elif command -v apk >/dev/null; then
        echo "${sudo}apk add $4"
    else
        echo "install $1 with the system's package manager"
    fi
}

check_system() {
    [ "$(uname -s)" = Linux ] || fail "needs Linux: io_uring and epoll are what is measured"
}

check_rust() {
    local wanted found
    local install="  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"
    # Where rustup puts it: a shell that was open before the installation does not have it in its path, and a
    # distribution's older toolchain must not win over it.
    export PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
    if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
        fail "there is no Rust toolchain. This installs one, without root:" "$install"
    fi
    wanted=$(sed -n 's/^rust-version = "\([0-9.]*\)"$/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d' ' -f2) || fail "rustc does not run; its message is above"
    if [ "$(printf '%s\n%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1)" != "$wanted" ]; then
        fail "rustc $found is too old, $wanted is needed. This installs a newer one beside it, without root:" "$install"
    fi
}

check_c_compiler() {
    # A compiler without the C library's headers is as bad as none, and its error in the middle of a build is worse.
    if ! printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | cc -x c - -o /dev/null 2>/dev/null; then
        fail "there is no working C compiler (cc), which links the programs and builds the allocator. This installs one:" \
            "  $(install_command 'gcc libc6-dev' 'gcc glibc-devel' gcc build-base)"
    fi
}

# What the kernel allows decides the engine; the generator finds out by itself. This only says how to change it.
check_io_uring() {
    local switch=/proc/sys/kernel/io_uring_disabled locked
    if [ -r "$switch" ] && [ "$(cat "$switch")" != 0 ]; then
        echo "io_uring is switched off on this host (kernel.io_uring_disabled = $(cat "$switch")). This allows it:"
        echo "  sudo sysctl kernel.io_uring_disabled=0"
    fi
    locked=$(ulimit -l)
    if [ "$locked" != unlimited ] && [ "$locked" -lt 2048 ] && [ "$(id -u)" != 0 ]; then
        echo "only $locked KiB of memory may be locked, which may not do for io_uring's rings. This raises it:"
        echo "  sudo prlimit --pid \$\$ --memlock=unlimited"
    fi
}

build() {
    local quiet=(--quiet)
    [ -t 2 ] && quiet=()
    echo "building ($profile; the first time this takes some minutes) ..."
    cargo build "${quiet[@]}" --locked --profile "$profile" -p sparring-server -p sparring-loadgen
}

# --commit and --dirty for the result; nothing where this is no git checkout. Results do not make a checkout dirty.
describe_checkout() {
    local commit changes
    commit=$(git rev-parse HEAD 2>/dev/null) || return 0
    # Without optional locks: a refreshed index would make cargo build again.
    changes=$(git --no-optional-locks status --porcelain -- ':/' ':(exclude,top)bench-results' 2>/dev/null) || return 0
    checkout=(--commit "$commit")
    [ -z "$changes" ] || checkout+=(--dirty)
}

suite=""
results=""
passed_on=()
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    quick | full | smoke | engines | build)
        [ -z "$suite" ] || usage_error "one experiment at a time: $suite or $1"
        suite=$1
        ;;
    --rounds | --scenarios | --tag | --engine | --arm | --duration | --warmup | --congestion | --results | --resume)
        [ $# -ge 2 ] || usage_error "$1 needs a value"
        case $1 in
        --results) results=$(realpath -m -- "$2") ;;
        --resume) passed_on+=(--resume "$(realpath -m -- "$2")") ;;
        *) passed_on+=("$1" "$2") ;;
        esac
        shift
        ;;
    *)
        usage_error "unknown argument: $1"
        ;;
    esac
    shift
done
suite=${suite:-quick}

root=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/.." && pwd)
cd -- "$root"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
if [ "$suite" = smoke ]; then
    profile=ci
    results=${results:-$CARGO_TARGET_DIR/smoke-results}
else
    profile=release
    results=${results:-bench-results}
fi

check_system
check_rust
check_c_compiler
check_io_uring
build
[ "$suite" != build ] || exit 0
checkout=()
describe_checkout

programs=$CARGO_TARGET_DIR/$profile
experiment=("$programs/sparring-loadgen" experiment "$suite" --server "$programs/sparring-server" --results "$results")
experiment+=("${checkout[@]}" "${passed_on[@]}")
exec "${experiment[@]}"
