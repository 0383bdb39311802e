"""The stream of training images: records, the order in which they come, and their composition."""

from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.utils import comm

from counterpoise.datasets.composer import composer
from counterpoise.datasets.counting import loader_dataset, read_once
from counterpoise.datasets.image_sampling import draws_per_epoch, image_sampler
from counterpoise.datasets.last_phase import PlainFrom, TwiceOver
from counterpoise.datasets.mapper import training_mapper
from counterpoise.datasets.packed import shared
from counterpoise.training.image_stream import ResumableLoader, resumable_loader


def train_loader(cfg: CfgNode) -> ResumableLoader:
    """Detectron2's training loader with this project's mapper, sampler and composer of images.

    Args:
        cfg: prepared by :func:`prepare`.

    Raises:
        UserError: a dataset cannot be read.
    """
    mapper = training_mapper(cfg)
    names, filter_empty = cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    records = loader_dataset(names, filter_empty)
    with read_once(names):
        parts = build_detection_train_loader.from_config(cfg, mapper=mapper, dataset=records)
    parts["sampler"] = image_sampler(cfg, parts["dataset"], parts["sampler"])
    draws = draws_per_epoch(parts["sampler"], len(parts["dataset"]))
    parts["dataset"] = shared(parts["dataset"])  # by the composer, too
    mapper.compose = composer(cfg, parts["dataset"], draws)
    if mapper.compose is not None and cfg.INPUT.COMPOSE_UNTIL < 1:
        drawn = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
        start = round(cfg.INPUT.COMPOSE_UNTIL * drawn)
        parts["sampler"] = PlainFrom(parts["sampler"], len(parts["dataset"]), start)
        parts["dataset"] = TwiceOver(parts["dataset"])
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    return resumable_loader(parts, seed, comm.get_rank(), comm.get_world_size())
