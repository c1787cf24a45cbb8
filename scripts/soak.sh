#!/usr/bin/env bash
# Hostile clients beside good ones, on every engine: the good ones must notice nothing, and nothing must be left behind.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/soak.sh [--seconds N] [--engines LIST] [--schemes LIST] [--programs DIR]

Starts the server with one worker and drives it with a good load: 4,000 messages a second, every echo checked. Beside it
hostile clients churn, reset, stall, do not read, exceed their rate, flood it with pings, fragments, handshakes and
rubbish, begin messages without an end, name impossible lengths, put escape sequences into their requests, and come in a
crowd from one address. Others say nothing to the admin listener. The hostile clients take only the processor time that
the others leave.

Checks that the good load had no error and that its p99 beside the hostile clients is at most 1.25 of that without (in
turn, median of the rounds), that a victim from another address is served within 100 ms (median) and 500 ms (p99), that
health is answered, that memory and descriptors come back to their bounds, that the log has no escape sequence, and that
the server ends in order.

  --seconds N     how long the hostile clients work at each engine with each scheme (default 30;
                  the whole takes about three times that)
  --engines LIST  such as uring,epoll (default: all that work here)
  --schemes LIST  ws, wss, or both (default: ws,wss)
  --programs DIR  where the two binaries are (default: builds them)

Needs python3, and a Rust toolchain where it builds. Exit status: 0 all held, 1 something did not, 2 usage.
END
}

seconds=30 engines="" schemes=ws,wss programs=""
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number} && shift 2 ;;
        --engines) engines=${2:?--engines needs a list} && shift 2 ;;
        --schemes) schemes=${2:?--schemes needs a list} && shift 2 ;;
        --programs) programs=${2:?--programs needs a folder} && shift 2 ;;
        -h | --help) usage && exit ;;
        *) echo "soak.sh: $1 is not known" >&2 && usage >&2 && exit 2 ;;
    esac
done
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || { echo "soak.sh: --seconds $seconds: a whole number is needed" >&2 && exit 2; }
[[ "$schemes" =~ ^wss?(,wss?)*$ ]] || { echo "soak.sh: --schemes $schemes: ws, wss or both are needed" >&2 && exit 2; }
command -v python3 >/dev/null || { echo "soak.sh needs python3: sudo apt-get install -y python3" >&2 && exit 1; }

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
if [ -z "$programs" ]; then
    command -v cargo >/dev/null || { echo "soak.sh needs a Rust toolchain, or --programs" >&2 && exit 1; }
    (cd -- "$here/.." && cargo build --release --locked -p sparring-server -p sparring-loadgen)
    programs=${CARGO_TARGET_DIR:-$here/../target}/release
fi
exec python3 "$here/soak/soak.py" "$programs" "$seconds" "$schemes" "$engines"
