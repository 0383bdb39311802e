"""A finished run: the files of its OUTPUT_DIR, read when they are asked for."""

from functools import cached_property
from pathlib import Path

from detectron2.config import CfgNode

from counterpoise import loss_shares, run_record
from counterpoise.config import load_config, read_yaml, training_config
from counterpoise.errors import UserError
from counterpoise.evaluation import Evaluation
from counterpoise.evaluation.stored import TestSet, read_inference, stored_test_sets
from counterpoise.loss_shares import LossShares, read_loss_shares
from counterpoise.reporting import evaluation_file, metrics_file
from counterpoise.reporting.evaluation_file import read_evaluations
from counterpoise.reporting.metrics_file import Series, read_metrics
from counterpoise.run_record import RunRecord


class Run:
    """The parts of a run; each raises :class:`UserError` where its file is broken."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: OUTPUT_DIR of a training or evaluation.

        Raises:
            UserError: there is no such folder.
        """
        if not path.is_dir():
            raise UserError(f"{path} is no folder: give the OUTPUT_DIR of a run")
        self.path = path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """At least one evaluation, by test set.

        Raises:
            UserError: ``evaluation.json`` is missing, cut off or no evaluation.
        """
        path = self.path / evaluation_file.FILE_NAME
        if not path.is_file():
            raise UserError(
                f"{self.path} has no {path.name}: give the OUTPUT_DIR of a run that has evaluated, "
                "or evaluate it with train_net.py --eval-only"
            )
        return read_evaluations(path)

    def test_set(self, name: str) -> TestSet | None:
        """Ground truth and detections of a test set; None where the run has not kept them."""
        return read_inference(self.path, name) if name in stored_test_sets(self.path) else None

    @cached_property
    def metrics(self) -> dict[str, Series]:
        """Scalars logged in training, by name; empty where there are none."""
        path = self.path / metrics_file.FILE_NAME
        return read_metrics(path) if path.is_file() else {}

    @cached_property
    def loss_shares(self) -> LossShares | None:
        """Share of the classification loss by class; None where it was not logged."""
        path = self.path / loss_shares.FILE_NAME
        return read_loss_shares(path) if path.is_file() else None

    @cached_property
    def record(self) -> RunRecord | None:
        """Command, seed, time and versions; None where they were not kept."""
        path = self.path / run_record.FILE_NAME
        return RunRecord.read(path) if path.is_file() else None

    @cached_property
    def config(self) -> CfgNode | None:
        """The whole config, frozen; None where it was not kept."""
        path = self.path / "config.yaml"
        if not path.is_file():
            return None
        missing = training_config().keys() - read_yaml(path).keys()
        if missing:
            raise UserError(
                f"{path} is not the whole config of a run, for it lacks "
                f"{', '.join(sorted(missing))}: restore it, or remove it to go without"
            )
        cfg = load_config([path])
        cfg.freeze()
        return cfg
