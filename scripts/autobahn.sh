#!/usr/bin/env bash
# Runs the Autobahn testsuite against the echo server and against the generator's echoing client.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/autobahn.sh [server|client|both] [core|fast|all] [--engine NAME] [--tls] [--container]

  server   sparring-server, as the suite's peer
  client   sparring-loadgen echo, as the suite's peer
  both     one after the other (the default)

  core     sections 1 to 7 and 10: 247 cases, some seconds
  fast     with section 9, large messages and many fragments, and 72 cases of the sections 12 and 13, compression: 373
           cases, about two minutes each way (the default)
  all      every case: 517, about ten minutes each way

  --engine NAME  uring, epoll or tokio-uring, in place of auto
  --tls          over wss://; openssl makes the certificate of the suite's server
  --container    take the suite from its official image, with docker, in place of package registries. The suite then
                 listens on all interfaces while it tests the client.

Beyond core, both programs run with --deflate takeover, otherwise with their default flags.

The suite needs Python 2.7. It is set up beside the build, nothing on the system is changed: with Debian's packages for
it where apt-get can have them, else with a Python 2.7 of pyenv or $PYTHON2. Needs python3. Where it cannot be had, the
script says so and ends with 0, or with 1 where SPARRING_REQUIRE_AUTOBAHN=1.
Every case must be OK, but for 7.1.6, 7.13.1 and 7.13.2, which are INFORMATIONAL for everyone.
Exit codes: 0 fine, 1 a case is not OK or an error, 2 usage.
TEXT
}

fail() {
    printf 'autobahn.sh: %s\n' "$@" >&2
    exit 1
}

usage_error() {
    printf 'autobahn.sh: %s; see scripts/autobahn.sh --help\n' "$1" >&2
    exit 2
}

# Without the suite nothing is shown to be wrong; where it must be there, that it is not is the error.
skip() {
    [ "${SPARRING_REQUIRE_AUTOBAHN:-0}" != 1 ] || fail "$1" "SPARRING_REQUIRE_AUTOBAHN=1 does not let that pass"
    echo "skipped: $1"
    exit 0
}

# What the suite was made from, and where: environments of Python cannot be moved.
recipe() {
    echo "$suite"
    cat "$kit"/*
}

# The suite is set up once; a change of its recipe sets it up again.
set_up() {
    local log=$suite.log how
    if [ -x "$suite/wstest" ] && [ -e "$suite/recipe" ] && recipe | cmp -s - "$suite/recipe"; then
        return
    fi
    command -v python3 >/dev/null || skip "the Autobahn testsuite needs python3, which is not here"
    echo "setting up the Autobahn testsuite ..."
    mkdir -p "$(dirname "$suite")"
    : >"$log"
    for how in apt pyenv; do
        rm -rf -- "$suite"
        if timeout 600 "$kit/setup.sh" "$suite" "$how" >>"$log" 2>&1; then
            recipe >"$suite/recipe"
            return
        fi
    done
    tail -n 20 "$log" >&2
    skip "the Autobahn testsuite cannot be set up; the end of $log is above"
}

# The same kit, with the image's wstest behind it.
set_up_container() {
    local image=crossbario/autobahn-testsuite
    docker info >/dev/null 2>&1 || fail "docker does not answer, which --container needs"
    docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" || fail "docker cannot pull $image"
    mkdir -p "$suite"
    cp "$kit"/*.py "$kit"/kit.sh "$kit"/run-*.sh "$suite"
    cat >"$suite/wstest" <<WRAPPER
#!/bin/sh
exec docker run --rm --init --network host --user $(id -u):$(id -g) -v '$reports:$reports' \\
    --env PYTHONUNBUFFERED=1 $image wstest "\$@"
WRAPPER
    chmod +x "$suite/wstest"
}

build() {
    echo "building ..."
    cargo build --quiet --locked --profile ci -p sparring-server -p sparring-loadgen
}

stop_server() {
    [ -n "$server" ] || return 0
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=""
}

# Sets `url` once the server accepts; its only line on standard output tells the port that it got. Its log has a line for
# every refusal, of which the suite provokes many.
start_server() {
    local line log=$reports/server.log
    local listen=(--listen 127.0.0.1:0)
    [ "$tls" = no ] || listen=(--listen wss://127.0.0.1:0 --tls-self-signed)
    listen+=("${deflate[@]}" "${engine[@]}")
    exec {said}< <(exec "$programs/sparring-server" "${listen[@]}" 2>"$log")
    server=$!
    read -r -t 20 line <&"$said" || fail "the server did not start:" "$(cat "$log")"
    url=$(sed -n 's/^listening on \(wss\{0,1\}:[^ ]*\) .*/\1/p' <<<"$line")
    [ -n "$url" ] || fail "the server says no address: $line"
    echo "$line"
}

test_server() {
    local url status=0
    printf '\nthe server:\n'
    start_server
    AGENT=sparring-server "$suite/run-server-test.sh" "$url" "$reports/server$suffix" "$cases" || status=$?
    stop_server
    return "$status"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# The certificate of the suite's server.
make_certificate() {
    export TLS_CERTIFICATE=$reports/certificate.pem TLS_KEY=$reports/key.pem
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -addext 'subjectAltName = IP:127.0.0.1' -keyout "$TLS_KEY" -out "$TLS_CERTIFICATE" 2>/dev/null
}

# The suite's client: every case, and then the report. A case whose connection is still open ends after 1 s.
run_client() {
    local echo=("$1" echo --quiet --connect-timeout 5m "${@:2}")
    "${echo[@]}" "$AUTOBAHN_URL/runCase?case={n}&agent=$AUTOBAHN_AGENT" --repeat "1..$AUTOBAHN_COUNT"
    sleep 1.2
    "${echo[@]}" "$AUTOBAHN_URL/updateReports?agent=$AUTOBAHN_AGENT"
}

test_client() {
    local trust=() status=0
    printf '\nthe client:\n'
    if [ "$tls" = yes ]; then
        make_certificate || { echo "skipped: the client over TLS needs openssl" && return; }
        trust=(--insecure)
    fi
    export -f run_client
    # The suite tells how many cases there are in AUTOBAHN_COUNT.
    AGENT=sparring-loadgen CLIENT_TIMEOUT=600 "$suite/run-client-test.sh" "$(free_port)" "$reports/client$suffix" "$cases" -- \
        bash -c 'run_client "$@"' run_client "$programs/sparring-loadgen" "${trust[@]}" "${deflate[@]}" "${engine[@]}" || status=$?
    return "$status"
}

who=both
cases=fast
engine=()
container=no
tls=no
suffix=""
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    server | client | both) who=$1 ;;
    core | fast | all) cases=$1 ;;
    --engine)
        [ $# -gt 1 ] || usage_error "--engine needs a name"
        engine=(--engine "$2")
        shift
        ;;
    --container) container=yes ;;
    --tls) tls=yes suffix=-tls ;;
    *) usage_error "unknown argument: $1" ;;
    esac
    shift
done

deflate=()
[ "$cases" = core ] || deflate=(--deflate takeover)
root=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/.." && pwd)
cd -- "$root"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
programs=$CARGO_TARGET_DIR/ci
kit=$root/scripts/autobahn
reports=$(realpath -m -- "$CARGO_TARGET_DIR/autobahn/reports")
server=""
trap stop_server EXIT
trap 'exit 130' INT TERM

if [ "$container" = yes ]; then
    suite=$(realpath -m -- "$CARGO_TARGET_DIR/autobahn/container")
    set_up_container
else
    suite=$(realpath -m -- "$CARGO_TARGET_DIR/autobahn/suite")
    set_up
fi
build
mkdir -p "$reports"

wrong=()
if [ "$who" != client ]; then test_server || wrong+=(server); fi
if [ "$who" != server ]; then test_client || wrong+=(client); fi
printf '\nreports: %s\n' "$reports"
[ ${#wrong[@]} -eq 0 ] || fail "not every case is OK: ${wrong[*]}"
echo "Autobahn: every case is OK$([ "$tls" = no ] || echo " over TLS")"
