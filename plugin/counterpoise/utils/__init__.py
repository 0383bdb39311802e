"""Files, tables, text and progress bars, which everything uses."""
