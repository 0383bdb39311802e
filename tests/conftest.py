"""Shared fixtures."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder that holds ``bccd/`` and ``aquarium/``; tests that ask for it skip without them."""
    root = Path(os.environ.get("COUNTERPOISE_TEST_DATA", SHARED))
    if not (root / "bccd").is_dir() or not (root / "aquarium").is_dir():
        pytest.skip("BCCD and Aquarium not found: set COUNTERPOISE_TEST_DATA to their folder")
    return root
