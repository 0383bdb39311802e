"""``python -m counterpoise`` is the program ``counterpoise``."""

import sys

from counterpoise.commands.console import main

sys.exit(main())
