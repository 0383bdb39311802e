"""Running a trained model: evaluation, prediction and choice of score thresholds."""
