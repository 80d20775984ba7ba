"""Measure what a trained run's filters do on every object and cell: python scripts/study.py run=RUN_FOLDER"""

from command import command
from omegaconf import DictConfig


@command("study")
def main(config: DictConfig) -> None:
    from pathlib import Path

    from run import load_config
    from studies import study

    from seg.errors import ConfigError

    if config.run is None:
        raise ConfigError("run is missing; give the folder of a trained run as run=FOLDER")
    output = Path(config.output) if config.output else Path(config.run) / "study"
    for path in study(load_config(config.run, config), config, output):
        print(path)


if __name__ == "__main__":
    main()
