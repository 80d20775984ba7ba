"""The loops, written out: training, evaluation, and the state that survives between them."""

from seg.engine.evaluate import Evaluation, evaluate
from seg.engine.inference import Inference
from seg.engine.optimizer import Schedule, adamw, sgd
from seg.engine.run_folder import RunFolder
from seg.engine.runtime import Runtime
from seg.engine.train import Trainer

__all__ = ["Evaluation", "Inference", "RunFolder", "Runtime", "Schedule", "Trainer", "adamw", "evaluate", "sgd"]
