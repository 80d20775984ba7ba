"""Cityscapes' own evaluation of predicted label images, by the program of its makers (cityscapesscripts)."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seg.errors import RunError

MARK = "RESULT"
# a process of its own: the program reads its settings when imported, and ends with sys.exit where it objects
PROGRAM = """
import json, sys
import numpy as np
np.in1d = getattr(np, "in1d", np.isin)  # gone from numpy 2.4, still asked for by cityscapesscripts 2.3
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
official.args.JSONOutput, official.args.quiet, official.args.evalInstLevelScore = False, True, False
predictions, truths = json.load(sys.stdin)
result = official.evaluateImgLists(predictions, truths, official.args)
print("RESULT" + json.dumps({"miou": result["averageScoreClasses"], "iou": result["classScores"]}))
"""


def official_scores(predictions: Sequence[Path], truths: Sequence[Path]) -> dict[str, Any]:
    """mIoU and IoU of each class by cityscapesscripts; None where a class is in neither.

    predictions: 8-bit PNGs of label ids; truths: gtFine_labelIds.png, in the same order
    raises:      RunError with what the program printed, where it gave no result
    """
    given = json.dumps([[str(path) for path in predictions], [str(path) for path in truths]])
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=given, capture_output=True, text=True, check=False)
    if MARK not in done.stdout:
        said = (done.stdout + done.stderr).strip()[-500:]
        raise RunError(f"cityscapesscripts gave no result (that of this program is written): {said}")
    found = json.loads(done.stdout.partition(MARK)[2].splitlines()[0])
    iou = {name: None if score != score else score for name, score in found["iou"].items()}
    return {"miou": found["miou"], "iou": iou}
