"""Time inference against stock Detectron2, torchvision and ONNX Runtime, at equal detections.

    python benchmarks/inference.py --run output/bccd --images path/to/images
    python benchmarks/inference.py --run output/bccd --images path/to/images --batches 1 2 4

The sides take turns, batch by batch, on the same decoded and resized images:

- stock Detectron2: its own components and settings, one image at a time;
- this project with the keys of ``MODEL.SPEED auto``, in batches and in bfloat16;
- the exported model in ONNX Runtime and in TorchScript;
- torchvision: its Faster R-CNN or RetinaNet around the same trained layers.

Beside the images per second stands how far the detections are from stock's: how many of its ten
best of each image the side finds too, with equal class and an IoU of at least 0.9, and the largest
differences of box and score among these.
"""

import argparse
import io
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Boxes
from PIL import Image
from tabulate import tabulate
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from counterpoise.commands.console import silence_known_noise
from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.export.describing import describe, detection_graph
from counterpoise.export.writing import onnx_bytes, torchscript_bytes
from counterpoise.inference.evaluation import load_for_evaluation
from counterpoise.modeling.acceleration import multiplies_bfloat16
from counterpoise.runtime.images import find_images, read_pixels
from counterpoise.training.run_record import hardware

Detections = tuple[Tensor, Tensor, Tensor]
Side = Callable[[Sequence[Tensor]], list[Detections]]

FAST = ["MODEL.CHANNELS_LAST", "True", "MODEL.ROI_ALIGN", "gather"]


@dataclass
class Timed:
    """A side of the comparison: how it detects, how many images at once, and what was measured."""

    detect: Side
    batch: int
    seconds: list[float]
    found: list[Detections]


def load(run: Path, *overrides: str) -> tuple[CfgNode, nn.Module, tuple[str, ...]]:
    """Config, model in evaluation mode and class names of a run."""
    weights = ["MODEL.WEIGHTS", str(run / "model_final.pth")]
    stock = ["MODEL.SPEED", "stock", "BALANCE.SCORE_THRESHOLDS", ""]
    cfg = load_config([run / "config.yaml"], [*weights, *stock, *overrides])
    names = prepare(cfg, eval_only=True, splits=())
    return cfg, load_for_evaluation(cfg)[0].eval(), names


def detectron2_side(model: nn.Module, device: torch.device) -> Side:
    """A model of Detectron2 on images (3, H, W), uint8."""

    def detect(images: Sequence[Tensor]) -> list[Detections]:
        outputs = model([{"image": image} for image in images])
        synchronize(device)
        found = [output["instances"] for output in outputs]
        return [(f.pred_boxes.tensor.cpu(), f.scores.cpu(), f.pred_classes.cpu()) for f in found]

    return detect


def onnx_side(content: bytes, threads: int) -> Side:
    """An exported model in ONNX Runtime on the CPU, one image at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def detect(images: Sequence[Tensor]) -> list[Detections]:
        outputs = []
        for image in images:
            given = image.permute(1, 2, 0).contiguous().numpy()
            outputs.append(tuple(map(torch.from_numpy, session.run(None, {"image": given}))))
        return outputs

    return detect


def torchscript_side(content: bytes) -> Side:
    """An exported model in TorchScript on the CPU, one image at a time."""
    module = torch.jit.load(io.BytesIO(content))
    return lambda images: [module(image.permute(1, 2, 0).contiguous()) for image in images]


class Backbone(nn.Module):
    """A backbone of Detectron2 as torchvision's detectors take it."""

    def __init__(self, backbone: nn.Module, features: Sequence[str], channels: int) -> None:
        super().__init__()
        self.backbone, self.features, self.out_channels = backbone, features, channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps by name."""
        maps = self.backbone(images)
        return {name: maps[name] for name in self.features}


class BoxPredictor(nn.Module):
    """A box predictor of Detectron2 with the background first, as torchvision has it."""

    def __init__(self, predictor: nn.Module) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R, K + 1) and deltas (R, 4 (K + 1))."""
        logits, deltas = self.predictor(vectors)
        logits = torch.cat([logits[:, -1:], logits[:, :-1]], dim=1)
        return logits, torch.cat([torch.zeros_like(deltas[:, :4]), deltas], dim=1)


class BoxPooler(nn.Module):
    """A pooler of Detectron2, whose half-pixel shift torchvision's own does not have."""

    def __init__(self, pooler: nn.Module, features: Sequence[str]) -> None:
        super().__init__()
        self.pooler, self.features = pooler, features

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: Any) -> Tensor:
        """Pooled features (R, C, y, x)."""
        return self.pooler([maps[name] for name in self.features], [Boxes(b) for b in boxes])


class DenseHead(nn.Module):
    """A RetinaNet head of Detectron2 with torchvision's form of outputs."""

    def __init__(self, head: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.head, self.num_classes = head, num_classes

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """Logits (N, A, K) and deltas (N, A, 4) of all anchors."""
        logits, deltas = self.head(maps)
        return {
            "cls_logits": torch.cat([permute_to_N_HWA_K(x, self.num_classes) for x in logits], 1),
            "bbox_regression": torch.cat([permute_to_N_HWA_K(x, 4) for x in deltas], 1),
        }


class Anchors(AnchorGenerator):
    """torchvision's generator with the cells of Detectron2's, which torchvision would round."""

    def __init__(self, generator: nn.Module) -> None:
        levels = len(generator.strides)
        super().__init__(sizes=((1,),) * levels, aspect_ratios=((1.0,),) * levels)
        self.cell_anchors = [
            cells + generator.offset * stride
            for cells, stride in zip(generator.cell_anchors, generator.strides, strict=True)
        ]

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Keep those of Detectron2."""
        self.cell_anchors = [cells.to(device, dtype) for cells in self.cell_anchors]

    def num_anchors_per_location(self) -> list[int]:
        """Cells of each level."""
        return [len(cells) for cells in self.cell_anchors]


def torchvision_side(cfg: CfgNode, model: nn.Module, device: torch.device) -> Side:
    """torchvision's detector around the trained layers of Detectron2's."""
    common = {
        "image_mean": [value / 255 for value in cfg.MODEL.PIXEL_MEAN],
        "image_std": [value / 255 for value in cfg.MODEL.PIXEL_STD],
        "size_divisible": model.backbone.size_divisibility,
    }
    two_stages = hasattr(model, "proposal_generator")
    make = torchvision_faster_rcnn if two_stages else torchvision_retinanet
    detector = make(cfg, model, common).to(device).eval()
    detector.transform.resize = lambda image, target: (image, target)

    def detect(images: Sequence[Tensor]) -> list[Detections]:
        outputs = detector([image.to(device).float() / 255 for image in images])
        synchronize(device)
        background = int(two_stages)  # which is number 0
        return [(o["boxes"].cpu(), o["scores"].cpu(), o["labels"].cpu() - background)
                for o in outputs]  # fmt: skip

    return detect


def torchvision_faster_rcnn(cfg: CfgNode, model: nn.Module, common: dict) -> nn.Module:
    """torchvision's Faster R-CNN with the layers of a model."""
    rpn, heads = model.proposal_generator, model.roi_heads
    detector = FasterRCNN(
        Backbone(model.backbone, list(rpn.in_features), cfg.MODEL.FPN.OUT_CHANNELS),
        rpn_anchor_generator=Anchors(rpn.anchor_generator),
        rpn_head=rpn.rpn_head,
        rpn_pre_nms_top_n_test=rpn.pre_nms_topk[False],
        rpn_post_nms_top_n_test=rpn.post_nms_topk[False],
        rpn_nms_thresh=rpn.nms_thresh,
        box_head=heads.box_head,
        box_predictor=BoxPredictor(heads.box_predictor),
        box_score_thresh=cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        box_nms_thresh=cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
        box_detections_per_img=cfg.TEST.DETECTIONS_PER_IMAGE,
        bbox_reg_weights=tuple(cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
        **common,
    )
    detector.roi_heads.box_roi_pool = BoxPooler(heads.box_pooler, heads.box_in_features)
    return detector


def torchvision_retinanet(cfg: CfgNode, model: nn.Module, common: dict) -> nn.Module:
    """torchvision's RetinaNet with the layers of a model."""
    return RetinaNet(
        Backbone(model.backbone, model.head_in_features, cfg.MODEL.FPN.OUT_CHANNELS),
        num_classes=model.num_classes,
        anchor_generator=Anchors(model.anchor_generator),
        head=DenseHead(model.head, model.num_classes),
        score_thresh=cfg.MODEL.RETINANET.SCORE_THRESH_TEST,
        nms_thresh=cfg.MODEL.RETINANET.NMS_THRESH_TEST,
        detections_per_img=cfg.TEST.DETECTIONS_PER_IMAGE,
        topk_candidates=cfg.MODEL.RETINANET.TOPK_CANDIDATES_TEST,
        **common,
    )


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type != "cpu":
        torch.cuda.synchronize()


def agreement(found: Sequence[Detections], stock: Sequence[Detections]) -> tuple[str, str, str]:
    """How many of stock's ten best are found too, and the largest differences of box and score."""
    total, both, box_gap, score_gap = 0, 0, 0.0, 0.0
    for (boxes, scores, classes), (own_boxes, own_scores, own_classes) in zip(
        found, stock, strict=True
    ):
        own_boxes, own_scores, own_classes = own_boxes[:10], own_scores[:10], own_classes[:10]
        total += len(own_boxes)
        if not len(own_boxes) or not len(boxes):
            continue
        overlap = box_iou(own_boxes, boxes)
        overlap[own_classes[:, None] != classes] = 0
        overlap, best = overlap.max(dim=1)
        gap = (scores[best] - own_scores).abs()
        matched = overlap >= 0.9
        both += int(matched.sum())
        if matched.any():
            box_gap = max(box_gap, float((boxes[best] - own_boxes)[matched].abs().max()))
            score_gap = max(score_gap, float(gap[matched].max()))
    share = f"{both} of {total}"
    return share, f"{box_gap:.4f}", f"{score_gap:.6f}"


def sides_of(run: Path, batches: Sequence[int], with_bfloat16: bool) -> dict[str, Timed]:
    """Every side, stock Detectron2 first."""
    cfg, model, names = load(run)
    device = torch.device(cfg.MODEL.DEVICE)
    stock = detectron2_side(model, device)
    sides = {"stock Detectron2": Timed(stock, 1, [], [])}
    for batch in (b for b in batches if b > 1):
        sides[f"stock, batch {batch}"] = Timed(stock, batch, [], [])
    fast = {"fast": FAST}
    if with_bfloat16:
        fast["fast, bfloat16"] = [*FAST, "TEST.PRECISION", "bfloat16"]
    for name, overrides in fast.items():
        detect = detectron2_side(load(run, *overrides)[1], device)
        for batch in batches:
            sides[name if batch == 1 else f"{name}, batch {batch}"] = Timed(detect, batch, [], [])
    sides["torchvision"] = Timed(torchvision_side(cfg, model, device), 1, [], [])
    cpu_cfg, cpu_model, _ = load(run, "MODEL.DEVICE", "cpu")
    graph = detection_graph(cpu_model, cpu_cfg)
    description = describe(cpu_cfg, names, graph)
    threads = torch.get_num_threads()
    sides["ONNX Runtime (CPU)"] = Timed(
        onnx_side(onnx_bytes(graph, description), threads), 1, [], []
    )
    sides["TorchScript (CPU)"] = Timed(
        torchscript_side(torchscript_bytes(graph, description)), 1, [], []
    )
    return sides


def resized_images(run: Path, paths: Sequence[Path], number: int) -> list[Tensor]:
    """Images (3, H, W), uint8, as a model of the run takes them."""
    cfg, model, names = load(run, "MODEL.DEVICE", "cpu")
    prepared = describe(cfg, names, detection_graph(model, cfg)).preprocessing
    images = []
    for image in itertools.islice(find_images(paths), number):
        pixels = Image.fromarray(read_pixels(image.path))
        pixels = np.array(pixels.resize(prepared.resized(*pixels.size), Image.Resampling.BILINEAR))
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        images.append(tensor.flip(0) if prepared.colours == "BGR" else tensor)
    return images


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="OUTPUT_DIR of a training")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="files or folders")
    parser.add_argument("--number", type=int, default=24, help="of images (default 24)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="(default 1 4)")
    parser.add_argument("--threads", type=int, help="of torch (default: as many as it takes)")
    args = parser.parse_args()
    silence_known_noise()
    warnings.filterwarnings("ignore", message="`torch.jit.load` is deprecated")
    if args.threads:
        torch.set_num_threads(args.threads)
    images = resized_images(args.run, args.images, args.number)
    device = torch.device(load(args.run)[0].MODEL.DEVICE)
    sides = sides_of(args.run, args.batches, multiplies_bfloat16(device))
    chunk = max(args.batches)
    with torch.no_grad():
        for side in sides.values():
            for _ in range(3):  # TorchScript compiles while it runs
                side.detect(images[: side.batch])
        for first in range(0, len(images), chunk):
            given = images[first : first + chunk]
            for side in sides.values():
                started = time.perf_counter()
                for start in range(0, len(given), side.batch):
                    side.found += side.detect(given[start : start + side.batch])
                side.seconds.append((time.perf_counter() - started) / len(given))
    stock = sides["stock Detectron2"]
    base = statistics.median(stock.seconds)
    rows = []
    for name, side in sides.items():
        seconds = statistics.median(side.seconds)
        rows.append((name, f"{1 / seconds:.2f}", f"{base / seconds:.2f}",
                     *agreement(side.found, stock.found)))  # fmt: skip
    sizes = sorted({tuple(image.shape[1:]) for image in images})
    print(
        f"{args.run.name}: {len(images)} images of {len(sizes)} sizes, {sizes[0]} to {sizes[-1]}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {hardware()}\n"
    )
    headers = ("side", "images/s", "times stock", "stock's found", "box (px)", "score")
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
