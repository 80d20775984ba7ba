"""Label images by a trained run: python scripts/predict.py run=RUN input=IMAGES output=FOLDER

IMAGES: an image, a folder with all in its folders, a .txt that lists files, or a video. For each image or frame, in
the output folder: ids/NAME.png (class ids), labels/NAME.png (with the palette) and overlays/NAME.png, where NAME begins
with the folders that an image lies in under IMAGES; with archive=voc or archive=cityscapes also the file that their
servers take.
"""

from command import command
from omegaconf import DictConfig


@command("predict")
def main(config: DictConfig) -> None:
    from pathlib import Path

    from prediction import predict
    from run import load_config

    from seg.counts import counted
    from seg.errors import ConfigError

    for key in ("run", "input", "output"):
        if config[key] is None:
            raise ConfigError(f"{key} is missing; give it as {key}=PATH")
    trained = load_config(config.run, config)
    trained.inference = config.inference
    count = predict(trained, Path(config.input), Path(config.output), config.opacity, config.archive)
    print(f"{counted(count, 'image')} labelled in {config.output}")


if __name__ == "__main__":
    main()
