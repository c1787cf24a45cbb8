#!/usr/bin/env python3
"""Makes fixtures.json: what other implementations say of samples, to which our statistics are held.

Needs scipy >= 1.14 (ties and zeros, by counting permutations) and R (the rest, with its intervals):
    python3 -m venv v && v/bin/pip install scipy && apt-get install r-base-core
    v/bin/python fixtures.py > fixtures.json
"""
import json
import subprocess

import numpy as np
from scipy import stats

COUNT_ALL = stats.PermutationMethod(n_resamples=np.inf)
generator = np.random.default_rng(20261120)


def r(code):
    """Numbers that an R expression prints, with all their digits."""
    said = subprocess.run(["Rscript", "-e", f"options(digits=17); cat(format({code}, digits=17))"],
                          capture_output=True, text=True, check=True)
    return [float(word) for word in said.stdout.split()]


def vector(values):
    return "c(" + ",".join(repr(float(value)) for value in values) + ")"


def from_r(test):
    p, shift, low, high = r(f"(function(t) c(t$p.value, t$estimate, t$conf.int))({test})")
    return {"p": p, "shift": shift, "low": low, "high": high}


def sample(size, shift=0.0):
    return [float(value) for value in generator.normal(shift, 1.0, size)]


def paired():
    sizes, shifts = (6, 8, 9, 10, 12, 20, 30, 60), (0.5, 0.8, 0.0, 0.7, 0.3, 0.4, 0.2, 0.3)
    for size, shift in zip(sizes, shifts):
        d = sample(size, shift)
        test = f"wilcox.test({vector(d)}, exact=TRUE, conf.int=TRUE)"
        yield {"differences": d, "by": "R", **from_r(test)}
    d = sample(250, 0.1)
    p = r(f"wilcox.test({vector(d)}, exact=FALSE, correct=TRUE)$p.value")[0]
    yield {"differences": d, "by": "R, normal approximation", "p": p}
    # Rounded, so that there are ties and zeros.
    for size, shift in [(7, 0.6), (10, 0.4), (12, 0.5), (14, 0.3)]:
        d = [float(value) for value in np.round(np.asarray(sample(size, shift)) * 2) / 2]
        p = stats.wilcoxon(d, zero_method="pratt", method=COUNT_ALL).pvalue
        yield {"differences": d, "by": "scipy", "p": float(p)}


def unpaired():
    sizes = [(4, 4, 1.0), (5, 7, 0.5), (8, 8, 0.9), (10, 10, 0.0), (12, 20, 0.6), (30, 30, 0.4)]
    for m, n, shift in sizes:
        x, y = sample(m), sample(n, shift)
        test = f"wilcox.test({vector(y)}, {vector(x)}, exact=TRUE, conf.int=TRUE)"
        yield {"before": x, "after": y, "by": "R", **from_r(test)}
    x, y = sample(60), sample(70, 0.2)
    p = r(f"wilcox.test({vector(y)}, {vector(x)}, exact=FALSE, correct=TRUE)$p.value")[0]
    yield {"before": x, "after": y, "by": "R, normal approximation", "p": p}
    for m, n, shift in [(5, 5, 0.5), (6, 9, 0.7), (8, 8, 0.4)]:
        x, y = (np.round(np.asarray(values) * 2) / 2 for values in (sample(m), sample(n, shift)))
        p = stats.mannwhitneyu(y, x, method=COUNT_ALL).pvalue
        yield {"before": x.tolist(), "after": y.tolist(), "by": "scipy", "p": float(p)}


def corrected():
    for size in (2, 5, 9):
        p = [float(value) for value in generator.uniform(0, 0.2, size)]
        yield {"p": p, "adjusted": r(f"p.adjust({vector(p)}, 'holm')")}


def shares():
    counts = (0, 1), (0, 20), (1, 20), (3, 25), (8, 10), (19, 20), (20, 20), (7, 300), (500, 1000)
    for count, of in counts:
        low, high = stats.binomtest(count, of).proportion_ci(0.95, method="exact")
        yield {"count": count, "of": of, "low": float(low), "high": float(high)}


FIXTURES = {"paired": paired, "unpaired": unpaired, "holm": corrected, "shares": shares}
print(json.dumps({name: list(make()) for name, make in FIXTURES.items()}, indent=1))
