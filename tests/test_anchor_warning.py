"""A training says at its start that its anchors miss a class."""

import json
import re

import pytest

from runs import NO_TEST, train_net, write_dataset


@pytest.mark.parametrize("small", [True, False])
def test_a_class_of_which_most_boxes_fit_no_anchor_is_named_before_the_training(tmp_path, small):
    data = write_dataset(tmp_path / "shapes", images=32)
    labels = data.parent / "labels.json"
    content = json.loads(labels.read_text())
    for annotation in content["annotations"]:
        if small and annotation["category_id"] == 1:  # a line of 3 x 60 pixels
            annotation["bbox"] = [5, annotation["bbox"][1] % 4, 3, 60]
    labels.write_text(json.dumps(content))
    sizes = ("MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [20], [24], [32], [64]]")
    settings = (*NO_TEST, *sizes, "SOLVER.MAX_ITER", "1")
    assert train_net(data, tmp_path / "out", *settings) == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    said = re.search(r"No anchor overlaps these boxes.*: (.*)\. `counterpoise inspect`", log)
    assert (said and said[1]) == ("100 % of bar" if small else None)
    if said:
        assert said.start() < log.index("Starting training")
