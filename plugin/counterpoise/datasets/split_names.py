"""The words by which datasets call their splits."""

import re

#: The words for each split, that of the configs first.
SPLIT_WORDS = {
    "train": ("train", "training", "trainset", "trainval"),
    "val": ("val", "valid", "validation", "valset", "dev", "eval"),
    "test": ("test", "testing", "testset"),
}


def split_of(name: str) -> str | None:
    """Return the split that a name such as ``instances_training2017`` speaks of, or None.

    Of several words for a split the first counts; ``latest`` and ``contest`` hold none.
    """
    split_of_word = {word: split for split, words in SPLIT_WORDS.items() for word in words}
    words = (word.lower() for word in re.findall(r"[A-Za-z]+", name))
    return next((split_of_word[word] for word in words if word in split_of_word), None)
