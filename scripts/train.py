"""Train a net, then evaluate it: python scripts/train.py conv=deform data=voc data.root=FOLDER"""

from command import command
from omegaconf import DictConfig


@command("train")
def main(config: DictConfig) -> None:
    from training import train_run

    train_run(config)


if __name__ == "__main__":
    main()
