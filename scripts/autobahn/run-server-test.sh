#!/usr/bin/env bash
# usage: run-server-test.sh URL OUTDIR [CASES] [EXCLUDE]
# Runs Autobahn's fuzzingclient against a running WebSocket echo server and prints a summary. URL is
# ws://127.0.0.1:PORT or wss://127.0.0.1:PORT, whatever certificate the server shows.
# CASES/EXCLUDE: set names (all, core, fast; see kit.sh) and/or patterns parted by commas or blanks, e.g.
# '1.*,2.*,7.*' or '9.1.6' (default: all, none). ALLOW_UNIMPLEMENTED=1: compression not offered is no failure.
# AGENT=name sets the name in the report (default: server). Reports (HTML + JSON) go to OUTDIR,
# wstest's own output to OUTDIR/wstest.log. WSTEST_TIMEOUT=seconds (default 7200). Exit: 0 pass, 1 not pass, 2 no report, 3 usage.
# (OUTDIR must be absent or one that this script made: what it holds of an earlier run is removed.)
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/autobahn/kit.sh
. "$here/kit.sh"
[ $# -ge 2 ] || { sed -n '2,9p' "$0"; exit 3; }
prepare_reports "$2"
write_spec "\"servers\": [{\"agent\": $(quoted "${AGENT:-server}"), \"url\": $(quoted "$1")}]" "${3:-all}" "${4:-}"
began=$(date +%s.%N)
timeout "${WSTEST_TIMEOUT:-7200}" "$here/wstest" -m fuzzingclient -s "$out/spec.json" > "$out/wstest.log" 2>&1
st=$?
[ $st = 0 ] || { echo "wstest exited $st (124: WSTEST_TIMEOUT; wstest writes its report only at the end):"; tail -5 "$out/wstest.log"; }
grep -E '^Connection to .* failed' "$out/wstest.log"
python3 "$here/summarize.py" "$out"; rc=$?
echo "wall: $(seconds_since "$began")"
[ $st = 0 ] || rc=2
exit $rc
