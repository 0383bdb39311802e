"""Shared fixtures."""

import logging
import os
from pathlib import Path

import pytest
from detectron2.utils import logger

from processes import training_processes
from runs import train_net, write_dataset

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder that holds ``bccd/`` and ``aquarium/``, and perhaps ``dental/``.

    Tests that ask for it skip without the first two.
    """
    root = Path(os.environ.get("COUNTERPOISE_TEST_DATA", SHARED))
    if not (root / "bccd").is_dir() or not (root / "aquarium").is_dir():
        pytest.skip("BCCD and Aquarium not found: set COUNTERPOISE_TEST_DATA to their folder")
    return root


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory):
    """Keep the user's folder for caches out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user_cache")))
        yield


@pytest.fixture(autouse=True)
def fresh_loggers():
    """Detectron2 caches its log handlers, and with them the captured stdout of an earlier test.

    It also counts the messages that are to be logged once in a process.
    """
    yield
    logger.setup_logger.cache_clear()
    logger._LOG_COUNTER.clear()
    for name in ("detectron2", "fvcore", "counterpoise"):
        logging.getLogger(name).handlers.clear()


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run: (config of the dataset, OUTPUT_DIR)."""
    folder = tmp_path_factory.mktemp("run")
    data = write_dataset(folder / "shapes")
    assert train_net(data, folder / "out", "TEST.EVAL_PERIOD", "2") == 0
    return data, folder / "out"


@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    """Two training processes of one gloo group, see :class:`processes.TrainingProcesses`."""
    with training_processes(tmp_path_factory.mktemp("processes")) as started:
        yield started
