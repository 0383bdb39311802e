"""Loading of test images in batches that pad no image further than it would be alone.

Padding is not neutral: a convolution's bias fills it, and what surrounds an image reaches into it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MapDataset
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import InferenceSampler
from detectron2.data.transforms import ResizeShortestEdge
from torch import nn
from torch.utils.data import DataLoader, Sampler

from counterpoise.datasets.packed import shared
from counterpoise.modeling.distributed import unwrapped
from counterpoise.utils.workers import leave_signals_to_parent


class EqualSizeBatches(Sampler[list[int]]):
    """Batches of successive images of one size, of this process's share of a dataset."""

    def __init__(
        self, sizes: Sequence[tuple[int, int] | None], batch_size: int, keep_order: bool
    ) -> None:
        """
        Args:
            sizes: (height, width) of all images, padded; None where it is not known.
            batch_size: images of a batch, at most.
            keep_order: of the images; otherwise those of one size come together.
        """
        indices = list(InferenceSampler(len(sizes)))
        if not keep_order:
            indices.sort(key=lambda index: sizes[index] or (0, 0))
        self._batches: list[list[int]] = []
        before = None
        for index in indices:
            size = sizes[index]
            if size is None or size != before or len(self._batches[-1]) == batch_size:
                self._batches.append([])
            self._batches[-1].append(index)
            before = size

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def batched_loader(
    cfg: CfgNode,
    model: nn.Module,
    records: Sequence[dict[str, Any]],
    mapper: Callable[[dict[str, Any]], Any],
    keep_order: bool = False,
) -> DataLoader:
    """Detectron2's test loader with ``TEST.IMS_PER_BATCH`` images of one size a batch.

    Args:
        cfg: prepared.
        model: of ``build_model``, possibly wrapped; its backbone says how it pads.
        records: with ``height`` and ``width``; one without them is alone in its batch.
        mapper: from a record to what the model takes.
        keep_order: see :class:`EqualSizeBatches`.
    """
    backbone = getattr(unwrapped(model), "backbone", None)
    step = max(getattr(backbone, "size_divisibility", 1), 1)
    sizes = [_padded(cfg, record, step) for record in records]
    return DataLoader(
        MapDataset(shared(records), mapper),
        batch_sampler=EqualSizeBatches(sizes, cfg.TEST.IMS_PER_BATCH, keep_order),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=leave_signals_to_parent,
    )


def _padded(cfg: CfgNode, record: Mapping[str, Any], step: int) -> tuple[int, int] | None:
    if "height" not in record or "width" not in record:
        return None
    size = record["height"], record["width"]
    if cfg.INPUT.MIN_SIZE_TEST > 0:
        size = ResizeShortestEdge.get_output_shape(
            *size, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        )
    height, width = (-(-side // step) * step for side in size)
    return height, width
