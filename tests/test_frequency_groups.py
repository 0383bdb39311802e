"""Groups of classes by training frequency: LVIS's cut-offs, halves of few classes, no empty one."""

from counterpoise.evaluation.groups import frequency_groups, mean_title


def test_many_classes_are_rare_to_10_common_to_100_and_frequent_above():
    images = [0, 1, 10, 11, 100, 101, *range(200, 220)]
    groups = {g.name: g.classes for g in frequency_groups(images, images)}
    assert groups == {
        "frequent": (5, *range(6, 26)),
        "common": (3, 4),
        "rare": (0, 1, 2),
    }


def test_19_classes_are_halved_and_20_are_not():
    images = [500] * 18 + [50]
    halves = frequency_groups(images, images)
    assert [(g.name, len(g.classes)) for g in halves] == [("head", 9), ("tail", 10)]
    images = [500] * 19 + [50]
    assert [g.name for g in frequency_groups(images, images)] == ["frequent", "common"]


def test_many_classes_in_one_of_lvis_groups_are_halved_too():
    """All of COCO's are frequent there: a group of all of them would say nothing."""
    boxes = list(range(120, 200))
    head, tail = frequency_groups([500] * 80, boxes)
    assert (head.classes, tail.classes) == (tuple(range(40, 80)), tuple(range(40)))


def test_an_empty_group_is_not_there():
    images = [500] * 29 + [5]
    assert [g.name for g in frequency_groups(images, images)] == ["frequent", "rare"]


def test_few_classes_are_halved_by_boxes_and_the_middle_one_is_tail():
    groups = frequency_groups([162, 280, 290], [292, 3348, 301])
    assert [(g.name, g.classes) for g in groups] == [("head", (1,)), ("tail", (0, 2))]
    equal = frequency_groups([10, 90], [90, 90])
    assert [(g.name, g.classes) for g in equal] == [("head", (1,)), ("tail", (0,))]


def test_one_class_has_no_groups():
    assert frequency_groups([7], [9]) == ()


def test_the_title_of_a_mean_says_over_how_many_classes_it_is():
    assert mean_title("tail", ("a", "b"), {"a", "b", "c"}) == "mean of tail (2)"
    assert mean_title("tail", ("a", "b"), {"b"}) == "mean of tail (1 of 2)"
