"""Files and progress, which everything uses."""
