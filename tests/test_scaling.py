"""The benchmark of growth, and the config of a large run."""

import math

import pytest

import scaling
from counterpoise.config.loading import load_config
from counterpoise.config.validation import check_config
from counterpoise.datasets import dataset_names, parse_specs

LARGE = "large/objects365.yaml"


def test_config_of_a_large_run_is_valid_and_shared_equally_by_its_processes():
    cfg = load_config([LARGE])
    check_config(cfg)
    named = dataset_names(parse_specs(cfg.DATASETS.CUSTOM))
    assert set(named) == {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    assert cfg.SOLVER.IMS_PER_BATCH == scaling.BATCH and scaling.BATCH % scaling.PROCESSES == 0
    assert min(cfg.SOLVER.STEPS) > cfg.SOLVER.WARMUP_ITERS
    assert max(cfg.SOLVER.STEPS) < cfg.SOLVER.MAX_ITER


def test_slope_of_a_quantity_is_one_where_it_is_linear_and_two_where_it_is_quadratic():
    points = [scaling.Point(n, 1.0, ratio, 5.0 * n) for n, ratio in ((1, 1), (4, 4), (8, 16))]
    rows = scaling.as_rows(points)
    assert [row[3] for row in rows] == ["", "1.00", "2.00"]
    assert [row[5] for row in rows] == ["1.00", "4.00", "8.00"]


@pytest.mark.parametrize("sizes", [{"classes": 7}, {"proposals": 16}, {"scales": 2}])
def test_a_step_is_measured_with_any_number_of_what_grows(sizes):
    with scaling.EventStorage():
        (point,) = scaling.grow({1: scaling.full_step(64, **sizes)}, turns=1)
    assert point.seconds > 0 and point.megabytes > 0 and point.ratio == 1


def test_the_evaluation_is_measured_by_detections_and_drawn():
    points = scaling.grow({n: scaling.evaluation(n) for n in (2, 4)}, 1, with_memory=False)
    assert [p.value for p in points] == [2, 4] and all(math.isfinite(p.ratio) for p in points)
    assert scaling.plot({"detections": points}).startswith(b"\x89PNG")
