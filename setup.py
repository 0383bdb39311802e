"""Installs the package ``counterpoise`` from ``plugin/``."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
INIT = ROOT / "plugin" / "counterpoise" / "__init__.py"
VERSION = re.search(r'^__version__ = "(.+)"$', INIT.read_text(encoding="utf-8"), re.MULTILINE)
if VERSION is None:
    raise RuntimeError(f'{INIT} has no line __version__ = "..."')


class BuildWithConfigs(build_py):
    """Copies ``configs/`` into the package that a wheel is made of.

    An editable installation finds them in the checkout: see ``counterpoise.config.packaged``.
    """

    def run(self) -> None:
        """Build the package, then add the config files."""
        super().run()
        if not getattr(self, "editable_mode", False):
            target = Path(self.build_lib, "counterpoise", "configs")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / "configs", target)


setup(
    name="counterpoise",
    version=VERSION[1],
    description="Faster R-CNN on class-imbalanced data: a Detectron2 plugin",
    license="Apache-2.0",
    package_dir={"": "plugin"},
    packages=find_packages("plugin"),
    package_data={"counterpoise": ["pages/templates/*"]},
    cmdclass={"build_py": BuildWithConfigs},
    python_requires=">=3.10",
    # Detectron2 itself is absent because PyPI does not have it: bring one, or run `make install`.
    # tools/setup_env.py reads the two lists below, so they stay plain literals.
    install_requires=[
        "defusedxml>=0.7",
        "faster-coco-eval>=1.6",
        "Jinja2>=3.1",
        "numpy",
        "opencv-python",
        "Pillow",
        "pycocotools>=2.0.2",
        "PyYAML>=5.1",
        "torch>=2.4",
        "torchvision>=0.19",
        # what Detectron2's modules import besides
        "cloudpickle",
        "fvcore>=0.1.5,<0.1.6",
        "hydra-core>=1.1",
        "iopath>=0.1.7,<0.1.10",
        "matplotlib",
        "msgspec>=0.18",
        "omegaconf>=2.1,<2.4",
        "packaging",
        "tabulate",
        "tensorboard",
        "termcolor>=1.1",
        "tqdm>4.29.0",
        "yacs>=0.1.8",
    ],
    entry_points={"console_scripts": ["counterpoise = counterpoise.commands.console:main"]},
    extras_require={
        "dev": [
            "hypothesis>=6.100",
            "onnx>=1.16",
            "onnxruntime>=1.18",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
        ],
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18"],
    },
)
