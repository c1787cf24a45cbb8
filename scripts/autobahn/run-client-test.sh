#!/usr/bin/env bash
# usage: run-client-test.sh PORT OUTDIR [CASES [EXCLUDE]] [-- CLIENT COMMAND...]
# Starts Autobahn's fuzzingserver on 127.0.0.1:PORT (loopback only; stock wstest would bind 0.0.0.0).
#  - with '-- CLIENT COMMAND...': runs the command with AUTOBAHN_URL=ws://127.0.0.1:PORT,
#    AUTOBAHN_COUNT=<number of cases> and AUTOBAHN_AGENT=${AGENT:-client} in its environment, then
#    asks the server for its report, stops it and prints the summary.
#    Exit: 0 pass, 1 not pass, 2 no report, 3 usage. CLIENT_TIMEOUT=seconds (default 3600) bounds the client.
#  - without: stays in the foreground until ctrl-C or SIGTERM, or until a client asks for /stopServer; then
#    prints the summary of what a client's /updateReports?agent=NAME had written (nothing is written without it).
# What the client does, for N in 1..count:  connect to  $AUTOBAHN_URL/runCase?case=N&agent=$AUTOBAHN_AGENT
# (offering permessage-deflate) and echo each text/binary message (same type) until the peer closes.
# CASES/EXCLUDE: set names (all, core, fast; see mkspec.py) and/or patterns parted by commas or blanks
# (default: all, none). ALLOW_UNIMPLEMENTED=1: compression not offered is no failure. Reports and wstest.log: OUTDIR.
set -u
here=$(cd "$(dirname "$0")" && pwd)
pos=(); while [ $# -gt 0 ] && [ "$1" != -- ]; do pos+=("$1"); shift; done
[ "${1:-}" = -- ] && shift
[ ${#pos[@]} -ge 2 ] || { sed -n '2,13p' "$0"; exit 3; }
port=${pos[0]} out=${pos[1]} cases=${pos[2]:-all} excl=${pos[3]:-}
url=ws://127.0.0.1:$port agent=${AGENT:-client}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 3
if [ -n "$(ls -A "$out")" ] && [ ! -e "$out/spec.json" ]; then echo "$out is not empty and not made by this script" >&2; exit 3; fi
rm -f "$out"/*.html "$out"/*.json "$out"/wstest.log
python3 "$here/mkspec.py" server "$url" "$out" "$cases" "$excl" "$agent" > "$out/spec.json" || exit 3
python3 "$here/ctl.py" "$url" wait 0 2>/dev/null && { echo "port $port is taken" >&2; exit 3; }
"$here/wstest" -m fuzzingserver -u 0 -s "$out/spec.json" > "$out/wstest.log" 2>&1 &
srv=$!
trap 'kill "$srv" 2>/dev/null' EXIT INT TERM
python3 "$here/ctl.py" "$url" wait 20 || { tail -5 "$out/wstest.log"; exit 2; }
kill -0 "$srv" 2>/dev/null || { echo "fuzzingserver exited:"; tail -5 "$out/wstest.log"; exit 2; }
n=$(python3 "$here/ctl.py" "$url" count)
echo "fuzzingserver pid $srv on $url, $n cases, reports to $out"
if [ $# -gt 0 ]; then
  t0=$(date +%s.%N)
  AUTOBAHN_URL=$url AUTOBAHN_COUNT=$n AUTOBAHN_AGENT=$agent timeout "${CLIENT_TIMEOUT:-3600}" "$@"; st=$?
  t1=$(date +%s.%N)
  echo "client command exited $st after $(echo "$t1 $t0" | awk '{printf "%.1f", $1-$2}') s"
  sleep 1.2                     # a case whose peer did not drop the connection ends after 1 s
  python3 "$here/ctl.py" "$url" update "$agent"
  python3 "$here/ctl.py" "$url" stop
fi
wait "$srv" 2>/dev/null; kill "$srv" 2>/dev/null; wait "$srv" 2>/dev/null
trap - EXIT INT TERM
python3 "$here/summarize.py" "$out" --log "$out/wstest.log"
