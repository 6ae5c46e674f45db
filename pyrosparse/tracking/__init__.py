"""Metrics of a training run, sent to TensorBoard, MLflow or Weights & Biases during training."""

from pyrosparse.tracking.mlflow import MLflow
from pyrosparse.tracking.tensorboard import TensorBoard
from pyrosparse.tracking.tracker import Tracker
from pyrosparse.tracking.wandb import WandB

__all__ = ["MLflow", "TensorBoard", "Tracker", "WandB"]
