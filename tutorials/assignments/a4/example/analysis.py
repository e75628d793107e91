"""The intervals of the report, from results.csv: writes summary.json."""

import csv
import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
STUDENT, NORMAL = 2.7764451, 1.9599640  # quantiles at 0.975: four degrees of freedom, and normal

with (HERE / "results.csv").open(encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
summary = {}
for other in ("mle", "control"):
    d = np.array([float(row["mixce"]) - float(row[other]) for row in rows])
    half = STUDENT * d.std(ddof=1) / np.sqrt(len(d))
    summary[f"mixce - {other}"] = {"mean": d.mean(), "low": d.mean() - half, "high": d.mean() + half}

draws = np.random.default_rng(1).standard_normal((100_000, len(rows)))
ratio = np.abs(draws.mean(axis=1)) / (draws.std(axis=1, ddof=1) / np.sqrt(len(rows)))
summary["coverage"] = {"t": (ratio < STUDENT).mean(), "normal": (ratio < NORMAL).mean()}
(HERE / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
print(json.dumps(summary, indent=1))
