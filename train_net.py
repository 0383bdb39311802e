"""Train and evaluate: ``python train_net.py --help``."""

import sys

from counterpoise.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
