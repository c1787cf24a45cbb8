#!/usr/bin/env python3
"""Summary of a report folder of the Autobahn testsuite, with its wstest.log.

usage: summarize.py OUTDIR

Counts by section, the cases that are not OK (behaviour or close behaviour), and those that were
asked for and not reported. Exit status: 0 when every case asked for was reported and all are OK but
those that are INFORMATIONAL for everyone: NON-STRICT fails as FAILED does. With
ALLOW_UNIMPLEMENTED=1 UNIMPLEMENTED passes too: a peer that declines permessage-deflate. 1
otherwise; 2 without a report.
"""
import ast
import json
import os
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

# Where the RFC leaves the answer open, the suite only tells which one it got.
INFORMATIONAL = {'7.1.6', '7.13.1', '7.13.2'}
FORGIVEN = {'OK'} | ({'UNIMPLEMENTED'} if os.environ.get('ALLOW_UNIMPLEMENTED') == '1' else set())


def key(case):
    return [int(part) for part in case.split('.')]


def passes(case, result):
    forgiven = FORGIVEN | ({'INFORMATIONAL'} if case in INFORMATIONAL else set())
    return {result['behavior'], result['behaviorClose']} <= forgiven


def summarize(outdir, agent, cases, expected):
    """Prints the summary of one agent. Returns whether it passes."""
    print(f'agent: {agent}, {len(cases)} cases reported of {len(expected)} asked for')
    # The total comes first, as section 0.
    sections, groups = defaultdict(Counter), defaultdict(list)
    for case in sorted(cases, key=key):
        verdict = '{behavior} / close {behaviorClose}'.format(**cases[case])
        for section in (0, key(case)[0]):
            sections[section][verdict] += 1
        groups[verdict].append(case)
    for section, counts in sorted(sections.items()):
        words = ', '.join(f'{name} {count}' for name, count in counts.most_common())
        print(f'  {f"section {section}" if section else "all":10}: {words}')
    for name, ids in sorted(groups.items()):
        if name != 'OK / close OK':
            print(f'  {name} ({len(ids)}): {" ".join(ids)}')
    wrong = [case for case in sorted(cases, key=key) if not passes(case, cases[case])]
    for case in wrong[:20]:
        try:
            report = json.loads((outdir / cases[case]['reportfile']).read_text('utf-8'))
            said = [re.sub(r'\s+', ' ', report[name]) for name in ('result', 'resultClose')]
            print(f'    {case}: {said[0][:200]} | close: {said[1][:160]}')
        except (OSError, ValueError) as error:
            print(f'    {case}: {error}')
    missing = sorted(expected - set(cases), key=key)
    if missing:
        print(f'  MISSING (asked for, not reported) {len(missing)}: {" ".join(missing)}')
    return cases and not wrong and not missing


def main():
    outdir, agents = Path(sys.argv[1]), {}
    try:
        reported = json.loads((outdir / 'index.json').read_text('utf-8'))
        log = (outdir / 'wstest.log').read_text(errors='replace')
        asked = re.search(r'^Cases = (.*)$', log, re.MULTILINE)
        expected, agents = {str(case) for case in ast.literal_eval(asked[1])}, reported
    except (OSError, ValueError, TypeError) as error:
        print(f'no report: {error}')
    passed = [summarize(outdir, *agent, expected) for agent in sorted(agents.items())]
    status = 2 if not passed else 0 if all(passed) else 1
    print(f'RESULT: {("PASS", "NOT PASS", "NO REPORT")[status]}')
    sys.exit(status)


main()
