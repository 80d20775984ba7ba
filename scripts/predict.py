"""Label images with a trained run: python scripts/predict.py run=RUN_FOLDER input=FILE_OR_FOLDER output=FOLDER

For each image, in the output folder: labels/NAME.png (class ids with the palette) and overlays/NAME.png.
"""

from command import command
from omegaconf import DictConfig


@command("predict")
def main(config: DictConfig) -> None:
    from pathlib import Path

    from prediction import predict
    from run import load_config

    from seg.errors import ConfigError

    for key in ("run", "input", "output"):
        if config[key] is None:
            raise ConfigError(f"{key} is missing; give it as {key}=PATH")
    if not 0 <= config.opacity <= 1:
        raise ConfigError(f"opacity is {config.opacity}; expected 0 to 1")
    count = predict(load_config(config.run, config), Path(config.input), Path(config.output), config.opacity)
    print(f"{count} images labelled in {config.output}")


if __name__ == "__main__":
    main()
