"""Train the classifier of finished baselines again (cRT), as lines beside those of the methods.

    python benchmarks/evidence/retrained.py FOLDER [--jobs N]

takes an ablation that has kept its models and appends two lines for each run to its
`results.jsonl`, one for each way of `counterpoise retrain-classifier` to balance the classes.
"""

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from counterpoise.ablation.collecting import result_of
from counterpoise.ablation.plan import CONFIG_FILE, RUNS, Trial
from counterpoise.ablation.results import FILE_NAME, RunResult, append_result, read_results
from counterpoise.ablation.running import Ended

BALANCES = ("weights", "images")


def retrain(run: RunResult, folder: Path, balance: str) -> RunResult:
    """Train and evaluate.

    Args:
        run: that is taken on.
        folder: OUTPUT_DIR of `run`.
        balance: of the classes.
    """
    out = folder.with_name(f"{folder.name}_{balance}")
    trial = Trial(
        f"{run.config}_{balance}", run.dataset, f"retrained_{balance}", run.seed,
        {"retrain-classifier --balance": balance}, out / CONFIG_FILE, out,
        run.scores.test_set, run.iterations // 10,
    )  # fmt: skip
    command = [
        sys.executable, "-m", "counterpoise", "retrain-classifier", "--run", str(folder),
        "--balance", balance, "--out", str(out), "--overwrite",
    ]  # fmt: skip
    started = time.monotonic()
    with trial.log_file.open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    return result_of(trial, Ended(trial, done.returncode, time.monotonic() - started))


def main() -> None:
    """Retrain what has no line yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the ablation")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="at a time (default 1)")
    args = parser.parse_args()
    file = args.folder / FILE_NAME
    runs = read_results([file])
    known = {(run.variant, run.dataset, run.seed) for run in runs}
    waiting = [
        (run, args.folder / RUNS / run.config / f"seed{run.seed}", balance)
        for run in runs
        for balance in BALANCES
        if run.variant == "baseline" and run.scores is not None
        and (f"retrained_{balance}", run.dataset, run.seed) not in known
    ]  # fmt: skip
    with ThreadPoolExecutor(args.jobs) as pool:
        for result in pool.map(lambda each: retrain(*each), waiting):
            append_result(file, result)
            scores = result.reason or f"AP {result.scores.AP:.1f}"
            print(f"{result.dataset}, {result.variant}, seed {result.seed}: {scores}", flush=True)


if __name__ == "__main__":
    main()
