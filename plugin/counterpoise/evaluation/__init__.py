"""Scoring of detections: pure functions on arrays, without Detectron2."""
