#!/usr/bin/env bash
# Runs hostile clients beside a good load, on every engine. The good load must not be disturbed, and
# the server must release everything.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/soak.sh [--seconds N] [--engines LIST] [--schemes LIST] [--programs DIR] [--stalled]

Starts the server with one worker and drives it with a good load: 4,000 messages a second, every
echo checked. Hostile clients run beside it. They open and close connections, reset them, stall, do
not read, and exceed their rate. They flood the server with pings, fragments, handshakes and invalid
frames. They begin messages without an end, send impossible lengths, put escape sequences into their
requests, and open many connections from one address. Others stay silent at the admin listener. The
hostile clients take only the processor time that the others leave, and none of the server's.

Checks, each a condition of success:
  - The good load has no error.
  - Its p99 beside steady attacks is at most 1.25 of its p99 alone. A round has the load alone and
    beside steady attacks, and the median of the ratios counts. The first rounds also have a flood,
    beside which the p99 is printed and not judged. A latency ends when the kernel has received the
    echo, because the good load shares its processor with the hostile clients.
  - A victim from another address is served within 100 ms (median) and 500 ms (p99).
  - The health check is answered.
  - Memory and descriptors return to their bounds.
  - The log has no escape sequence.
  - The server ends without an error.

  --seconds N     attack time for each engine with each scheme (default 30; the whole takes about
                  three times that)
  --engines LIST  engines, such as uring,epoll (default: all that work here)
  --schemes LIST  ws, wss, or both (default: ws,wss)
  --programs DIR  folder with the server's binary (default: builds it)
  --stalled       in place of all that: 5,000 connections that stall in mid-frame. The p99 of the
                  good load beside them is at most 1.25 of its p99 alone (median of six rounds or
                  more). Needs a machine that is otherwise idle, and as many file descriptors.

Needs python3, and a Rust toolchain where it builds.
Exit status: 0 all checks passed; 1 a check failed, or an error; 2 wrong usage.
END
}

seconds=30 engines="" schemes=ws,wss programs="" clients=hostile
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number} && shift 2 ;;
        --engines) engines=${2:?--engines needs a list} && shift 2 ;;
        --schemes) schemes=${2:?--schemes needs a list} && shift 2 ;;
        --programs) programs=${2:?--programs needs a folder} && shift 2 ;;
        --stalled) clients=stalled && shift ;;
        -h | --help) usage && exit ;;
        *) echo "soak.sh: \`$1\` is not a known flag" >&2 && usage >&2 && exit 2 ;;
    esac
done
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || {
    echo "soak.sh: --seconds: \`$seconds\` is not a valid time: expected a whole number, for example 30" >&2
    exit 2
}
[[ "$schemes" =~ ^wss?(,wss?)*$ ]] || {
    echo "soak.sh: --schemes: \`$schemes\` is not a valid list: expected ws, wss or ws,wss" >&2
    exit 2
}
command -v python3 >/dev/null || {
    echo "soak.sh needs python3: sudo apt-get install -y python3" >&2
    exit 1
}

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
if [ -z "$programs" ]; then
    command -v cargo >/dev/null || { echo "soak.sh needs a Rust toolchain, or --programs" >&2 && exit 1; }
    (cd -- "$here/.." && cargo build --release --locked -p sparring-server)
    programs=${CARGO_TARGET_DIR:-$here/../target}/release
fi
# Without --engines: all engines that work here. Names the others.
if [ -z "$engines" ]; then
    facts=$("$programs/sparring-server" --version --verbose)
    sed -n '/: available$/d; s/^engine /skipped: &/p' <<<"$facts"
    engines=$(sed -n 's/^engine \(.*\): available$/\1/p' <<<"$facts" | paste -s -d ,)
fi
exec python3 -B "$here/soak/soak.py" "$programs" "$seconds" "$schemes" "$engines" "$clients"
