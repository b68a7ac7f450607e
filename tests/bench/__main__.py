"""How much faster the patching engine is than the built-in loops, and how its time and memory grow.

    python -m tests.bench                       every section, on SmolLM2 and on both fixtures
    python -m tests.bench --quick               a few minutes: samples instead of whole built-in sweeps
    python -m tests.bench --sections sweeps growth dialect --models smollm2-135m

Writes build/bench.json, build/bench.html and, where there is a browser to draw it, build/bench.png. A built-in sweep that
would take longer than `--limit` seconds is timed on a random sample of its cells and scaled up; its row then says so, and
the largest difference is over the cells that ran.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from rich.console import Console

from tests.bench.edges import bench_edges
from tests.bench.growth import bench_dialect, bench_growth
from tests.bench.measuring import FIXTURES
from tests.bench.pages import table, write_report
from tests.bench.paths import bench_paths
from tests.bench.sweeps import SWEEPS, bench_sweeps

BENCHES = {"growth": bench_growth, "dialect": bench_dialect, "paths": bench_paths, "edges": bench_edges}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--sections", nargs="+", default=["sweeps", "paths", "edges", "growth", "dialect"])
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", *FIXTURES])
    parser.add_argument("--sweeps", nargs="+", default=list(SWEEPS), choices=SWEEPS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=400, help="longest built-in sweep that is run whole, in seconds")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build"))
    args = parser.parse_args()
    console, limit = Console(), 20 if args.quick else args.limit
    torch.set_grad_enabled(False)
    report = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    args.out.mkdir(exist_ok=True)
    if (earlier := args.out / "bench.json").exists():  # sections that are not run again are kept
        report = json.loads(earlier.read_text()) | report
    for section in args.sections:
        if section == "sweeps":
            report["sweeps"] = bench_sweeps(args.models, args.sweeps, args.repeats, limit, console)
        else:
            report[section] = BENCHES[section](args.models[0], args.quick, console)
        (args.out / "bench.json").write_text(json.dumps(report, indent=1))
    write_report(report, args.out, console)
    if "sweeps" in report:
        console.print(table(report["sweeps"]))


if __name__ == "__main__":
    main()
