"""Trackers: a run's metrics, tables and report in TensorBoard, Weights & Biases, MLflow or trackio."""
