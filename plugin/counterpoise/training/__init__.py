"""Training: Detectron2's trainer with this project's parts, and what a run writes."""
