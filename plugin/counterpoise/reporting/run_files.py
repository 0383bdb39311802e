"""A finished run: the files of its OUTPUT_DIR, read when they are asked for."""

import os
from functools import cached_property
from pathlib import Path

from detectron2.config import CfgNode

from counterpoise.config.keys import training_config
from counterpoise.config.loading import load_config, read_yaml
from counterpoise.errors import UserError
from counterpoise.evaluation.stored import FIX, FOLDER, TestSet, read_inference, stored_test_sets
from counterpoise.reporting.metrics_file import Series, read_metrics
from counterpoise.training import class_loss_file, run_record
from counterpoise.training.class_loss_file import ClassLosses, read_class_losses
from counterpoise.training.run_record import RunRecord
from counterpoise.utils.output_dir import CONFIG, METRICS


class Run:
    """The parts of a run; each raises :class:`UserError` where its file is broken."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: OUTPUT_DIR of a training or evaluation.

        Raises:
            UserError: there is no such folder.
        """
        if not os.path.isdir(path):  # pathlib's raises where its parent may not be read
            raise UserError(f"{path} is not a folder: give the OUTPUT_DIR of a run")
        self.path = path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @cached_property
    def test_set_names(self) -> list[str]:
        """Test sets that the run has been evaluated on, at least one.

        Raises:
            UserError: there is none.
        """
        names = stored_test_sets(self.path)
        if not names:
            raise UserError(
                f"{self.path} has kept no detections in {FOLDER}/: give the OUTPUT_DIR of a run "
                f"that has evaluated, or {FIX}"
            )
        return names

    def test_set(self, name: str) -> TestSet:
        """Ground truth and detections of a test set."""
        return read_inference(self.path, name)

    @cached_property
    def metrics(self) -> dict[str, Series]:
        """Scalars logged in training, by name; empty where there are none."""
        path = self.path / METRICS
        return read_metrics(path) if path.is_file() else {}

    @cached_property
    def class_losses(self) -> ClassLosses | None:
        """Shares of the classes in the classification loss; None where they were not logged."""
        path = self.path / class_loss_file.FILE_NAME
        return read_class_losses(path) if path.is_file() else None

    @cached_property
    def record(self) -> RunRecord | None:
        """Command, seed, time and versions; None where they were not kept."""
        path = self.path / run_record.FILE_NAME
        return RunRecord.read(path) if path.is_file() else None

    @cached_property
    def config(self) -> CfgNode | None:
        """The complete config, frozen; None where it was not kept."""
        path = self.path / CONFIG
        if not path.is_file():
            return None
        missing = training_config().keys() - read_yaml(path).keys()
        if missing:
            raise UserError(
                f"{path} is not the complete config of a run, for it lacks "
                f"{', '.join(sorted(missing))}: restore it, or remove it to go without"
            )
        cfg = load_config([path])
        cfg.freeze()
        return cfg
