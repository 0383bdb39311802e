"""Images in, detections out: what runs without PyTorch and Detectron2, exported models included."""
