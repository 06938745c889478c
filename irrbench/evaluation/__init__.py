"""What a stage of one data set gathers and comes to, and where its results go: in any loop, without a trainer."""

from irrbench.evaluation.evaluator import Evaluator, agreement_table, noise_fit
from irrbench.evaluation.mlflow_sink import MLflowSink
from irrbench.evaluation.sinks import CSVSink, Sink
from irrbench.evaluation.tensorboard_sink import TensorBoardSink
from irrbench.evaluation.wandb_sink import WandbSink

__all__ = [
    "CSVSink",
    "Evaluator",
    "MLflowSink",
    "Sink",
    "TensorBoardSink",
    "WandbSink",
    "agreement_table",
    "noise_fit",
]
