#!/usr/bin/env bash
# usage: run-client-test.sh PORT OUTDIR [CASES [EXCLUDE]] [-- CLIENT COMMAND...]
# Starts Autobahn's fuzzingserver on 127.0.0.1:PORT (loopback only; stock wstest would bind 0.0.0.0).
#  - with '-- CLIENT COMMAND...': runs the command with AUTOBAHN_URL=ws://127.0.0.1:PORT,
#    AUTOBAHN_COUNT=<number of cases> and AUTOBAHN_AGENT=${AGENT:-client} in its environment, then
#    stops the server and prints the summary.
#    Exit: 0 pass, 1 not pass, 2 no report, 3 usage. CLIENT_TIMEOUT=seconds (default 3600) bounds the client.
#  - without: stays in the foreground until ctrl-C or SIGTERM, or until a client asks for /stopServer; then
#    prints the summary.
# What the client does, for N in 1..count:  connect to  $AUTOBAHN_URL/runCase?case=N&agent=$AUTOBAHN_AGENT
# (offering permessage-deflate) and echo each text/binary message (same type) until the peer closes. Then it
# connects to $AUTOBAHN_URL/updateReports?agent=$AUTOBAHN_AGENT: nothing is reported without that.
# CASES/EXCLUDE: set names (all, core, fast; see kit.sh) and/or patterns parted by commas or blanks
# (default: all, none). ALLOW_UNIMPLEMENTED=1: compression not offered is no failure. Reports and wstest.log: OUTDIR.
# TLS_CERTIFICATE, TLS_KEY: files in PEM, with which the server speaks wss.
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/autobahn/kit.sh
. "$here/kit.sh"
pos=(); while [ $# -gt 0 ] && [ "$1" != -- ]; do pos+=("$1"); shift; done
[ "${1:-}" = -- ] && shift
[ ${#pos[@]} -ge 2 ] || { sed -n '2,16p' "$0"; exit 3; }
port=${pos[0]} agent=${AGENT:-client} url=ws://127.0.0.1:${pos[0]} tls=""
if [ -n "${TLS_KEY:-}" ]; then
  url=wss://127.0.0.1:$port
  tls=", \"cert\": $(quoted "$TLS_CERTIFICATE"), \"key\": $(quoted "$TLS_KEY")"
fi
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
prepare_reports "${pos[1]}"
write_spec "\"url\": $(quoted "$url")$tls" "${pos[2]:-all}" "${pos[3]:-}"
listens && { echo "port $port is taken" >&2; exit 3; }
"$here/wstest" -m fuzzingserver -u 0 -s "$out/spec.json" > "$out/wstest.log" 2>&1 &
srv=$!
trap 'kill "$srv" 2>/dev/null' EXIT INT TERM
for ((tries = 0; tries < 200; tries++)); do
  if listens || ! kill -0 "$srv" 2>/dev/null; then break; fi
  sleep 0.1
done
listens || { echo "fuzzingserver does not listen:"; tail -5 "$out/wstest.log"; exit 2; }
n=$(sed -n 's/^Ok, will run \([0-9]*\) test cases.*/\1/p' "$out/wstest.log")
echo "fuzzingserver pid $srv on $url, $n cases, reports to $out"
if [ $# -gt 0 ]; then
  began=$(date +%s.%N)
  AUTOBAHN_URL=$url AUTOBAHN_COUNT=$n AUTOBAHN_AGENT=$agent timeout "${CLIENT_TIMEOUT:-3600}" "$@"; st=$?
  echo "client command exited $st after $(seconds_since "$began")"
  kill "$srv" 2>/dev/null
fi
wait "$srv" 2>/dev/null; kill "$srv" 2>/dev/null; wait "$srv" 2>/dev/null
trap - EXIT INT TERM
python3 "$here/summarize.py" "$out"
