"""Settings of one number of processes, scaled to another one."""

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm

from counterpoise.errors import UserError


def scaled_to_processes(cfg: CfgNode) -> CfgNode:
    """Scale batch, rate and length by the processes that there are, as Detectron2 does.

    ``SOLVER.REFERENCE_WORLD_SIZE`` is the number that the config was written for; 0 scales nothing,
    and neither does a second call.

    Args:
        cfg: of a training.

    Returns:
        another config where something is scaled.

    Raises:
        UserError: the batch cannot be divided among as many processes.
    """
    reference, batch = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    if reference and batch % reference:
        raise UserError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}, among which a batch of SOLVER."
            f"IMS_PER_BATCH {batch} cannot be divided: make it a multiple, or set "
            "REFERENCE_WORLD_SIZE 0, which scales nothing"
        )
    scaled = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
    if scaled is cfg:
        return cfg
    frozen = scaled.is_frozen()
    scaled.defrost()
    solver = scaled.SOLVER
    solver.MAX_ITER = max(solver.MAX_ITER, 1)
    solver.CHECKPOINT_PERIOD = max(solver.CHECKPOINT_PERIOD, 1)
    if cfg.TEST.EVAL_PERIOD:  # 0 would evaluate at the end only
        scaled.TEST.EVAL_PERIOD = max(scaled.TEST.EVAL_PERIOD, 1)
    if frozen:
        scaled.freeze()
    return scaled
