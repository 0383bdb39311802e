"""The subcommands of ``counterpoise``, one module each: ``add_parser`` and ``run``."""
