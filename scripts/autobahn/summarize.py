#!/usr/bin/env python3
"""Summary of a report folder of the Autobahn testsuite.  usage: summarize.py OUTDIR [--log WSTEST_LOG]
Counts by section and behaviour, the list of case ids that are not OK (behaviour or close behaviour),
and the cases asked for but not reported. Exit status: 0 when every case asked for was reported and all are OK
but those that are INFORMATIONAL for everyone (7.1.6, 7.13.1, 7.13.2): NON-STRICT fails as FAILED does. With
ALLOW_UNIMPLEMENTED=1 UNIMPLEMENTED is none either: a peer that declines permessage-deflate. 1 otherwise; 2
when there is no report at all."""
import ast, collections, json, os, re, sys
outdir = sys.argv[1]
log = sys.argv[3] if len(sys.argv) > 3 and sys.argv[2] == '--log' else None
expected = None
if log and os.path.exists(log):
    for line in open(log, errors='replace'):
        if line.startswith('Cases = ['):
            expected = [str(x) for x in ast.literal_eval(line[len('Cases = '):])]
            break
idx = os.path.join(outdir, 'index.json')
if not os.path.exists(idx):
    print('no report: %s is absent' % idx)
    sys.exit(2)
data = json.load(open(idx))
key = lambda c: [int(x) for x in c.split('.')]
# Where the RFC leaves the answer open, the suite only tells which one it got.
INFORMATIONAL = {'7.1.6', '7.13.1', '7.13.2'}
FORGIVEN = {'UNIMPLEMENTED'} if os.environ.get('ALLOW_UNIMPLEMENTED') == '1' else set()
def fine(case, behaviour):
    return behaviour == 'OK' or behaviour in FORGIVEN or behaviour == 'INFORMATIONAL' and case in INFORMATIONAL
rc = 0 if data else 2
for agent, cases in sorted(data.items()):
    print('agent: %s, %d cases reported' % (agent, len(cases)) + ('' if expected is None else ' of %d asked for' % len(expected)))
    per, close, dur = {}, collections.Counter(), collections.Counter()
    tot = collections.Counter()
    for c, r in cases.items():
        s = key(c)[0]
        per.setdefault(s, collections.Counter())[r['behavior']] += 1
        tot[r['behavior']] += 1
        close[r['behaviorClose']] += 1
        dur[s] += r['duration'] if r['duration'] < 1e9 else 0      # never opened: the time since 1970
    for s in sorted(per):
        print('  section %2d: %3d cases  %-60s %8.1f s' % (s, sum(per[s].values()),
              ', '.join('%s %d' % kv for kv in sorted(per[s].items(), key=lambda kv: -kv[1])), dur[s] / 1000))
    print('  total behaviour: ' + ', '.join('%s %d' % kv for kv in tot.most_common()) + '   (sum of case durations %.1f s)' % (sum(dur.values()) / 1000))
    print('  total close    : ' + ', '.join('%s %d' % kv for kv in close.most_common()))
    notok = sorted((c for c in cases if cases[c]['behavior'] != 'OK' or cases[c]['behaviorClose'] != 'OK'), key=key)
    print('  not OK (%d):' % len(notok) + ('' if notok else ' none'))
    groups = collections.OrderedDict()
    for c in notok:
        groups.setdefault((cases[c]['behavior'], cases[c]['behaviorClose']), []).append(c)
    for (b, bc), cs in sorted(groups.items()):
        print('    behaviour %s / close %s (%d): %s' % (b, bc, len(cs), ' '.join(cs)))
    bad = [c for c in cases if not (fine(c, cases[c]['behavior']) and fine(c, cases[c]['behaviorClose']))]
    if bad:
        rc = max(rc, 1)
        for c in sorted(bad, key=key)[:20]:
            f = os.path.join(outdir, cases[c]['reportfile'])
            try:
                j = json.load(open(f))
                print('    %s: %s | close: %s' % (c, re.sub(r'\s+', ' ', j['result'])[:200], re.sub(r'\s+', ' ', j['resultClose'])[:160]))
            except Exception as e:
                print('    %s: (%s unreadable: %s)' % (c, f, e))
    if expected is not None:
        missing = sorted(set(expected) - set(cases), key=key)
        if missing:
            rc = max(rc, 1)
            print('  MISSING (asked for, not reported) %d: %s' % (len(missing), ' '.join(missing)))
    elif not cases:
        rc = 1
if not data:
    print('empty report')
print('RESULT: ' + {0: 'PASS', 1: 'NOT PASS', 2: 'NO REPORT'}[rc])
sys.exit(rc)
