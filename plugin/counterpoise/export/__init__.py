"""Trained detectors as files that run without Detectron2."""
