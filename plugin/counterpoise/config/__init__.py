"""Config keys, loading of config files, checks of their values, and preparation for a model."""

from counterpoise.config.keys import add_counterpoise_config

__all__ = ["add_counterpoise_config"]
