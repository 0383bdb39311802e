"""The programs ``counterpoise`` and ``train_net.py``: from what is typed to an exit code."""

import argparse
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from counterpoise import require_detectron2
from counterpoise.commands.arguments import argument_parser, train_parser
from counterpoise.errors import RunFailed, UserError
from counterpoise.utils.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``counterpoise``.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        exit code: 0 done, 2 bad input or config, 1 a training that cannot go on, 130 Ctrl-C. Any
        other failure raises; so does a training that was told to stop, as SystemExit.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser, commands = argument_parser()
    if arguments and arguments[0] in commands:
        # Overrides may stand before, between and after options, which subparsers cannot read.
        args = commands[arguments[0]].parse_intermixed_args(arguments[1:])
    else:
        args = parser.parse_args(arguments)
    args.typed = shlex.join(["counterpoise", *arguments])
    return _execute(args, f"counterpoise {args.command}")


def train_net(arguments: Sequence[str] | None = None) -> int:
    """Run ``train_net.py``, which is ``counterpoise train`` in a checkout.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        exit code, as of :func:`main`.
    """
    script = "train_net.py" if arguments is not None else sys.argv[0]
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    args = train_parser("train_net.py").parse_intermixed_args(arguments)
    args.typed = shlex.join(["python", script, *arguments])
    return _execute(args, "train_net.py")


def _execute(args: argparse.Namespace, program: str) -> int:
    silence_known_noise()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # class names may have letters that a terminal has not
            stream.reconfigure(errors="backslashreplace")
    try:
        if getattr(args, "model", None) is None:  # an exported model needs no Detectron2
            require_detectron2(program)
        import_module(f"counterpoise.commands.{args.command.replace('-', '_')}").run(args)
        sys.stdout.flush()
    except (UserError, RunFailed) as error:
        sentence = str(error).strip()
        if "Traceback (most recent call last)" in sentence:
            # A loader or GPU process hands its error on with its traceback, which ends with the
            # class of the error, whichever it is, and the sentence.
            sentence = sentence.splitlines()[-1].partition(": ")[2]
        print(printable(f"{program}: error: {sentence}", lines=False), file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:  # outside the loop of a training, which saves first
        print(f"{program}: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as head, has seen enough; Python must not write to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def silence_known_noise() -> None:
    """Keep what newer versions of torch say of Detectron2's code off the terminal."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
    warnings.filterwarnings("ignore", message=r"torch\.meshgrid")
    for name in ("torch.fx._symbolic_trace", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
