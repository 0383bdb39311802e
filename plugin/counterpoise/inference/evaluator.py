"""Evaluation inside Detectron2: collects detections and hands them to the evaluation core."""

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from detectron2.utils import comm

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.datasets.ground_truth import coco_ground_truth
from counterpoise.datasets.mapper import UNREADABLE
from counterpoise.errors import UserError
from counterpoise.evaluation import Evaluation, ProposalRecall, evaluate_detections
from counterpoise.evaluation.groups import metric_name
from counterpoise.evaluation.matching import corners
from counterpoise.evaluation.stored import FIX, stored_test_sets
from counterpoise.inference.hooks import ProposalTap
from counterpoise.modeling.score_thresholds import ScoreThresholds
from counterpoise.utils.decoding import read_record
from counterpoise.utils.files import write_json

#: Name of the file with the results in a run's OUTPUT_DIR.
FILE_NAME = "evaluation.json"


class PerClassEvaluator(DatasetEvaluator):
    """Detectron2 evaluator for any dataset of its catalogue.

    After :meth:`evaluate`, `result` holds the full :class:`Evaluation` on the main process, and
    `ground_truth` and `detections` hold what was scored, in COCO form.
    """

    def __init__(
        self,
        dataset_name: str,
        training: ClassCounts | None = None,
        thresholds: ScoreThresholds | None = None,
        proposals: ProposalTap | None = None,
    ) -> None:
        """
        Args:
            dataset_name: in ``DatasetCatalog``.
            training: counts over the training set, for the table.
            thresholds: scores at which precision and recall are measured; None takes the best ones.
            proposals: tap on the model, to measure the RPN too.
        """
        self.dataset_name = dataset_name
        self.training = training
        self.thresholds = thresholds
        self.ground_truth = coco_ground_truth(dataset_name)
        self.result: Evaluation | None = None
        self.detections: list[dict[str, Any]] = []
        self._tap = proposals
        self._recall = ProposalRecall(len(self.ground_truth["categories"]))
        self._boxes = _boxes_by_image(self.ground_truth) if proposals else {}

    def reset(self) -> None:
        """Forget all detections."""
        self.detections = []
        self.result = None
        self._recall = ProposalRecall(self._recall.num_classes)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Collect the detections of a batch, as :class:`DatasetEvaluator` describes."""
        for image, output in zip(inputs, outputs, strict=True):
            if UNREADABLE in image:
                continue
            instances = output["instances"].to("cpu")
            self.detections.extend(instances_to_coco_json(instances, image["image_id"]))
        if self._tap is not None and self._tap.latest is not None:
            self._add_proposals(inputs, self._tap.latest)

    def _add_proposals(self, inputs: list[dict[str, Any]], batch: list[Instances]) -> None:
        for image, proposals in zip(inputs, batch, strict=True):
            height, width = (image.get(key) for key in ("height", "width"))
            scaled = detector_postprocess(proposals, height, width)
            boxes, classes = self._boxes[image["image_id"]]
            self._recall.add(scaled.proposal_boxes.tensor.float().cpu().numpy(), boxes, classes)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score all detections, gathered from all processes.

        Returns:
            ``{"bbox": {"AP", "AP50", "AP75", "AP-<group>", "AP-<class>", ...}}``, Detectron2's
            form, NaN where there is no value; None on every process but the first. The full result
            is in `result`.

        Raises:
            UserError: there is nothing to evaluate.
        """
        gathered = comm.gather(self.detections, dst=0)
        recalls = comm.gather(self._recall.state, dst=0)
        if not comm.is_main_process():
            return None
        self.detections = list(itertools.chain(*gathered))
        recall = ProposalRecall(self._recall.num_classes, list(itertools.chain(*recalls)))
        chosen = self.thresholds
        self.result = evaluate_detections(
            self.ground_truth,
            self.detections,
            self.training,
            thresholds=chosen and dict(zip(chosen.class_names, chosen.scores, strict=True)),
            thresholds_from=chosen.origin if chosen else "",
            proposals=recall.result() if recall.state else None,
        )
        values = {name: getattr(self.result, name) for name in ("AP", "AP50", "AP75")}
        classes = {c.name for c in self.result.per_class}
        values |= {metric_name(group.name, classes): group.AP for group in self.result.groups}
        values |= {f"AP-{c.name}": c.AP for c in self.result.per_class}
        return {"bbox": {k: float("nan") if v is None else v for k, v in values.items()}}


def _boxes_by_image(coco: Mapping[str, Any]) -> dict[int | str, tuple[np.ndarray, np.ndarray]]:
    """Boxes (n, 4) XYXY and classes (n,) of every image, without ignored regions."""
    found: dict[int | str, list[tuple[list[float], int]]] = {i["id"]: [] for i in coco["images"]}
    for annotation in coco["annotations"]:
        if not (annotation["iscrowd"] or annotation["difficult"]):
            found[annotation["image_id"]].append((annotation["bbox"], annotation["category_id"]))
    result = {}
    for image, entries in found.items():
        boxes = np.array([box for box, _ in entries], dtype=np.float64).reshape(-1, 4)
        result[image] = corners(boxes), np.array([c for _, c in entries], dtype=np.int64)
    return result


def write_evaluations(results: Mapping[str, Evaluation], path: Path) -> None:
    """Write ``{dataset: result}`` as JSON; the file is complete or untouched.

    Of what it held before, other test sets stay while their detections are kept beside it, so that
    the file is about those that the run's report shows.

    Args:
        results: by dataset name.
        path: of the file, in the run's OUTPUT_DIR.

    Raises:
        UserError: the file cannot be written.
    """
    content = {name: asdict(result) for name, result in results.items()}
    earlier = _earlier_evaluations(path)
    for name in stored_test_sets(path.parent):
        if name in earlier:
            content.setdefault(name, earlier[name])
    write_json(path, content)


def _earlier_evaluations(path: Path) -> dict[str, Any]:
    with contextlib.suppress(UserError):  # there is none, or it is broken and will be replaced
        return read_record(path, dict[str, Any], FIX)
    return {}
