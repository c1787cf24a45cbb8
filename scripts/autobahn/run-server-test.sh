#!/usr/bin/env bash
# usage: run-server-test.sh ws://127.0.0.1:PORT OUTDIR [CASES] [EXCLUDE]
# Runs Autobahn's fuzzingclient against a running WebSocket echo server and prints a summary.
# CASES/EXCLUDE: set names (all, core, fast; see mkspec.py) and/or patterns parted by commas or blanks, e.g.
# '1.*,2.*,7.*' or '9.1.6' (default: all, none). ALLOW_UNIMPLEMENTED=1: compression not offered is no failure.
# AGENT=name sets the name in the report (default: server). Reports (HTML + JSON) go to OUTDIR,
# wstest's own output to OUTDIR/wstest.log. WSTEST_TIMEOUT=seconds (default 7200). Exit: 0 pass, 1 not pass, 2 no report, 3 usage.
# (OUTDIR must be absent or one that this script made: what it holds of an earlier run is removed.)
set -u
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] || { sed -n '2,8p' "$0"; exit 3; }
url=$1 out=$2 cases=${3:-all} excl=${4:-}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 3
if [ -n "$(ls -A "$out")" ] && [ ! -e "$out/spec.json" ]; then echo "$out is not empty and not made by this script" >&2; exit 3; fi
rm -f "$out"/*.html "$out"/*.json "$out"/wstest.log
python3 "$here/mkspec.py" client "$url" "$out" "$cases" "$excl" "${AGENT:-server}" > "$out/spec.json" || exit 3
t0=$(date +%s.%N)
timeout "${WSTEST_TIMEOUT:-7200}" "$here/wstest" -m fuzzingclient -s "$out/spec.json" > "$out/wstest.log" 2>&1
st=$?
t1=$(date +%s.%N)
[ $st = 0 ] || { echo "wstest exited $st (124: WSTEST_TIMEOUT; wstest writes its report only at the end):"; tail -5 "$out/wstest.log"; }
grep -E '^Connection to .* failed' "$out/wstest.log"
python3 "$here/summarize.py" "$out" --log "$out/wstest.log"; rc=$?
echo "wall: $(echo "$t1 $t0" | awk '{printf "%.1f", $1-$2}') s"
[ $st = 0 ] || rc=2
exit $rc
