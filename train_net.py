"""Train and evaluate, as ``counterpoise train`` does: ``python train_net.py --help``."""

import sys

from counterpoise.commands.console import train_net

if __name__ == "__main__":
    sys.exit(train_net())
