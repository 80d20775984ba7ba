"""Pictures of what units read and depend on: python scripts/analyze.py run=RUN_FOLDER images=NAMES output=FOLDER"""

from command import command
from omegaconf import DictConfig


@command("analyze")
def main(config: DictConfig) -> None:
    from pathlib import Path

    from pictures import analyze
    from run import load_config

    from seg.alarms import exploded
    from seg.counts import counted
    from seg.engine import RunFolder
    from seg.errors import ConfigError

    if config.run is None:
        raise ConfigError("run is missing; give the folder of a trained run as run=FOLDER")
    output = Path(config.output) if config.output else Path(config.run) / "analysis"
    count = analyze(load_config(config.run, config), config, output)
    for alarm in exploded(RunFolder(config.run).read_metrics()).values():
        print(f"alarm: {alarm}")
    print(f"{counted(count, 'unit')} in {output}: overview.png, and each picture by itself")


if __name__ == "__main__":
    main()
