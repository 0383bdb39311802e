"""``counterpoise ablate``: variants, datasets and seeds trained and set side by side."""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

from counterpoise.ablation import results as results_file
from counterpoise.ablation.collecting import is_finished, result_of
from counterpoise.ablation.plan import Plan, Trial, make_plan
from counterpoise.ablation.progress import Progress
from counterpoise.ablation.resampling import resample
from counterpoise.ablation.results import RunResult, append_result, read_results
from counterpoise.ablation.running import Ended, run_trials
from counterpoise.ablation.sections import as_markdown, as_page, as_text
from counterpoise.ablation.summary import DatasetSummary, summarize
from counterpoise.ablation.variants import config_path, variants_of
from counterpoise.commands.imports import import_files
from counterpoise.errors import UserError, did_you_mean
from counterpoise.utils.files import write_atomically, write_json
from counterpoise.utils.output_dir import CHECKPOINTS, LAST_CHECKPOINT
from counterpoise.utils.progress import progress
from counterpoise.utils.text import counted, duration, number

INTERRUPTED = 130  # exit code of a program that Ctrl-C ends


def run(args: argparse.Namespace) -> None:
    """Train what is not there yet, then print and write the tables.

    Raises:
        UserError: an option, config or file cannot be used, or no run has finished.
        SystemExit: the ablation was interrupted.
    """
    if args.table:
        summaries = summarize(read_results(args.table), baseline=args.baseline)
        print(_as_json(_content(summaries)) if args.json else as_markdown(summaries))
        return
    import_files(args.imports)  # the configs may name what they register
    variants = variants_of(args.variants, args.variants_file, args.grid)
    datasets = [str(config_path(file, "--datasets")) for file in args.datasets]
    names = [variant.name for variant in variants]
    if args.baseline is not None and args.baseline not in names:
        raise UserError(
            f"--baseline {args.baseline} is no variant, {did_you_mean(args.baseline, names)}"
        )
    # The first one is what the settings of the others differ from.
    variants = sorted(variants, key=lambda variant: variant.name != args.baseline)
    plan = make_plan(args.out, args.config_file, datasets, variants, args.seeds, args.opts)
    file = args.out / results_file.FILE_NAME
    kept = _kept(plan, file)
    # What is asked for goes to standard output, what is reported on the way to standard error.
    _print_plan(plan, kept, args, sys.stdout if args.dry_run else sys.stderr)
    if args.dry_run:
        return
    plan.write_configs()
    with _interruptible():
        try:
            _train(plan, kept, file, args)
        except KeyboardInterrupt:
            done = len(_kept(plan, file))
            print(
                f"\nInterrupted: {done} of {counted(len(plan.trials), 'run')} are done. The same "
                "command goes on from here; a run that was interrupted is resumed.",
                file=sys.stderr,
            )
            raise SystemExit(INTERRUPTED) from None
    summaries = _summaries(plan, file, args.baseline)
    content = _content(summaries)
    written = [
        write_json(args.out / "ablation.json", content),
        write_atomically(
            args.out / "ablation.html", as_page(f"Ablation {args.out.name}", summaries, args.typed)
        ),
        file,
    ]
    if args.json:
        print(_as_json(content))
    else:
        print(f"\n{as_text(summaries)}\n", *written, sep="\n")


def _content(summaries: Sequence[DatasetSummary]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(summary) for summary in summaries]


def _as_json(content: list[dict[str, Any]]) -> str:
    return json.dumps(content, indent=2, allow_nan=False)


def _kept(plan: Plan, file: Path) -> dict[tuple[str, int], RunResult]:
    """Results that need no training: a run that diverged would do so again, a failed one may not.

    They take their names from the plan, since a run is known by its config.
    """
    trials = {(trial.config, trial.seed): trial for trial in plan.trials}
    found = {}
    for result in read_results([file]) if file.is_file() else ():
        trial = trials.get((result.config, result.seed))
        if trial is not None and result.outcome != "failed":
            found[trial.config, trial.seed] = _named(result, trial)
    return found


def _named(result: RunResult, trial: Trial) -> RunResult:
    return dataclasses.replace(
        result, dataset=trial.dataset, variant=trial.variant, settings=trial.settings
    )


def _print_plan(
    plan: Plan, kept: dict[tuple[str, int], RunResult], args: argparse.Namespace, file: TextIO
) -> None:
    for notice in plan.notices:
        print(f"Note: {notice}", file=file)
    if args.imports and kept:
        files = ", ".join(map(str, args.imports))
        print(
            f"Note: finished runs are kept by their config, whatever {files} says now: where that "
            "has changed, give another --out.",
            file=file,
        )
    configs = {trial.config: trial for trial in plan.trials}
    datasets = dict.fromkeys(trial.dataset for trial in plan.trials)
    variants = dict.fromkeys(trial.variant for trial in plan.trials)
    print(
        f"{counted(len(variants), 'variant')} x {counted(len(datasets), 'dataset')} x "
        f"{counted(len(args.seeds), 'seed')}: {counted(len(plan.trials), 'run')}, "
        f"{len(kept)} of them done; the baseline is {args.baseline or next(iter(variants))}",
        file=file,
    )
    for trial in configs.values():
        settings = ", ".join(f"{key} {value}" for key, value in trial.settings.items())
        seeds = [str(t.seed) for t in plan.trials if t.config == trial.config]
        done = [seed for seed in seeds if (trial.config, int(seed)) in kept]
        state = f", done: {', '.join(done)}" if done else ""
        print(
            f"  {trial.config}  {trial.dataset}  {trial.variant}  "
            f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)}{state}"
            + (f"\n      {settings}" if settings else ""),
            file=file,
        )


def _train(
    plan: Plan, kept: dict[tuple[str, int], RunResult], file: Path, args: argparse.Namespace
) -> None:
    """Train what is not kept and append each result as it comes."""
    trials = [trial for trial in plan.trials if (trial.config, trial.seed) not in kept]
    if not trials:
        return
    gpus = _gpus()
    jobs = args.jobs or max(len(gpus), 1)

    def command(trial: Trial) -> list[str]:
        return _command(trial, args.imports)

    state = Progress(len(kept), len(plan.trials))
    waiting_said = False
    bar = progress(None, "ablation", "run", total=len(plan.trials))
    bar.initial = bar.n = len(kept)
    with bar, contextlib.closing(run_trials(trials, command, jobs, gpus, is_finished)) as events:
        for event in events:
            if isinstance(event, Ended):
                result = _record(event, plan, file, args.discard_models)
                state.end(event.trial, event.seconds is not None)
                bar.write(_line(result, event.trial, state), file=sys.stderr)
                continue
            if not event and not waiting_said:
                waiting_said = True
                bar.write("Waiting for runs that another process trains", file=sys.stderr)
            state.look(event)
            bar.n = round(state.finished, 2)
            bar.set_postfix_str("; ".join(trial.name for trial in event), refresh=False)
            bar.refresh()


def _record(ended: Ended, plan: Plan, file: Path, discard_models: bool) -> RunResult:
    """Append the result of a run to the file, and remove the checkpoints that nothing needs."""
    trial, result = ended.trial, result_of(ended.trial, ended)
    trained_here = ended.seconds is not None
    if trained_here or (trial.config, trial.seed) not in _kept(plan, file):
        append_result(file, result)  # else the process that trained it has done so
    if result.outcome == "failed" and not _was_stopped(ended.code):
        # It would fail there again, so it starts anew.
        (trial.folder / LAST_CHECKPOINT).unlink(missing_ok=True)
    if discard_models and result.outcome == "finished":
        for path in [*trial.folder.glob(CHECKPOINTS), *trial.folder.glob(LAST_CHECKPOINT)]:
            path.unlink()
    return result


def _was_stopped(code: int) -> bool:
    """Whether a signal has ended a process, at once or after it had saved its training."""
    return code < 0 or code in (128 + signal.SIGINT, 128 + signal.SIGTERM)


def _command(trial: Trial, imports: Sequence[str]) -> list[str]:
    """Training of a trial, resumed where it was interrupted."""
    resume = (trial.folder / LAST_CHECKPOINT).is_file()
    files = [part for file in imports for part in ("--import", file)]
    return [
        sys.executable, "-m", "counterpoise", "train", "--resume" if resume else "--overwrite",
        *files, "--config-file", str(trial.config_file),
        "OUTPUT_DIR", str(trial.folder), "SEED", str(trial.seed),
    ]  # fmt: skip


def _gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` may be set to, one for each GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible else [str(i) for i in range(count)]


def _line(result: RunResult, trial: Trial, state: Progress) -> str:
    scores = result.scores
    if scores is None:
        said = f"{result.outcome}: {result.reason} (see {trial.log_file})"
    else:
        said = f"AP {number(scores.AP)}, AP50 {number(scores.AP50)}"
        if scores.groups:
            said += f", {scores.groups[-1].name} {number(scores.groups[-1].AP)}"
        said += f", training {duration(result.training_seconds)}"
    left = "" if state.seconds_left is None else f"; about {duration(state.seconds_left)} left"
    if state.done == state.total:
        left = ""
    return f"[{state.done}/{state.total}] {trial.name}: {said}{left}"


def _summaries(plan: Plan, file: Path, baseline: str | None) -> tuple[DatasetSummary, ...]:
    """Of the plan's runs, in its order, with intervals over images where detections are kept."""
    results = {(r.config, r.seed): r for r in (read_results([file]) if file.is_file() else ())}
    folders = {(trial.config, trial.seed): trial.folder for trial in plan.trials}
    own = [
        _named(results[key], trial)
        for key, trial in zip(folders, plan.trials, strict=True)
        if key in results
    ]
    return summarize(
        own,
        lambda runs: resample(
            runs, folders, track=lambda each: progress(each, "resampling", "run")
        ),
        baseline,
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Take the end of a session, and a request to end, for what Ctrl-C is.

    What is ignored stays so: ``nohup`` lets a program outlive the session in this way.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    heard = (signal.SIGTERM, signal.SIGHUP)
    earlier = {
        number: signal.signal(number, interrupt)
        for number in heard
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
