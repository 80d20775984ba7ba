"""Classify objects in boxes, and draw where the bins moved: python scripts/train_roi.py data.root=FOLDER"""

from command import command
from omegaconf import DictConfig


@command("train_roi")
def main(config: DictConfig) -> None:
    from roi import train_boxes

    train_boxes(config)


if __name__ == "__main__":
    main()
