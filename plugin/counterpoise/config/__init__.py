"""Config keys, loading of config files, checks of their values, and preparation for a model."""
