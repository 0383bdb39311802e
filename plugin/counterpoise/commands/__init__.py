"""The command line: ``arguments``, ``console``, and per command a module with ``run``."""
