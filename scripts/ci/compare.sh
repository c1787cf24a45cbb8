#!/usr/bin/env bash
# Runs `sparring-loadgen ci` on a runner of a CI system; builds the generator once where there is none.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/ci/compare.sh FLAGS OF sparring-loadgen ci

Environment:
  SPARRING_LOADGEN  the generator; without it the one of PATH, or that of this checkout, which is built once and kept in
                    ~/.cache/sparring
  SPARRING_FLAGS    further flags, as in a shell: --threshold server-cpu=3% --confirm

  scripts/ci/compare.sh --base-dir base --head-dir head --base 'node server.js {port}' --head 'node server.js {port}'

Exit codes: those of sparring-loadgen ci: 0 not regressed, or the runner cannot tell; 11 regressed; 1 error, also where the
generator cannot be built; 2 usage.
TEXT
}

case ${1:-} in
-h | --help) usage && exit 0 ;;
"") usage >&2 && exit 2 ;;
esac

here=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")" && pwd)
kept=${XDG_CACHE_HOME:-$HOME/.cache}/sparring

# find_generator: the generator, which is built where there is none.
find_generator() {
    if [ -n "${SPARRING_LOADGEN:-}" ]; then
        echo "$SPARRING_LOADGEN"
    elif command -v sparring-loadgen; then
        return
    elif [ -x "$kept/sparring-loadgen" ]; then
        echo "$kept/sparring-loadgen"
    else
        command -v cargo >/dev/null || {
            echo "compare.sh: neither sparring-loadgen nor cargo is there: name one in SPARRING_LOADGEN, or install Rust" >&2
            return 1
        }
        cargo build --release --locked --manifest-path "$here/../../Cargo.toml" --target-dir "$kept/build" \
            -p sparring-loadgen >&2
        cp -- "$kept/build/release/sparring-loadgen" "$kept/sparring-loadgen"
        # The build is large, and only the program is needed again.
        rm -rf -- "$kept/build"
        echo "$kept/sparring-loadgen"
    fi
}

flags=()
if [ -n "${SPARRING_FLAGS:-}" ]; then
    # xargs splits as a shell does, and runs nothing.
    mapfile -t flags < <(xargs printf '%s\n' <<<"$SPARRING_FLAGS")
fi
generator=$(find_generator)
exec "$generator" ci "$@" "${flags[@]}"
