"""What a stage of one data set gathers and comes to, and where its results go: in any loop, without a trainer."""

from irrbench.evaluation.evaluator import Evaluator, agreement_table, noise_fit
from irrbench.evaluation.mlflow_sink import MLflowSink
from irrbench.evaluation.sinks import CSVSink, Sink

__all__ = ["CSVSink", "Evaluator", "MLflowSink", "Sink", "agreement_table", "noise_fit"]
