"""DeepLab with dilated and deformable ResNets: operators, models, data, metrics, analysis and report."""

import os

# albumentations asks the network for a newer version at import unless told otherwise
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
