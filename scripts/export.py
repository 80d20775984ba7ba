"""Export a trained run for other programs: python scripts/export.py run=RUN_FOLDER format=onnx|torch_export output=FILE

The file takes a normalised image, float32 [N, 3, H, W] of any N, and any H and W (torch_export: that are more than one
cell of the net's stride), and gives logits [N, classes, H, W]. It
carries what normalising takes, and the classes; it is compared with the run's own net at two sizes before it is kept.
"""

from command import command
from omegaconf import DictConfig


@command("export")
def main(config: DictConfig) -> None:
    from pathlib import Path

    from build import check
    from exporting import FORMATS, export_run
    from run import load_config

    from seg.errors import ConfigError

    if config.run is None:
        raise ConfigError("run is missing; give the folder of a trained run as run=RUN_FOLDER")
    check(config)
    if config.format not in FORMATS:
        raise ConfigError(f"format is {config.format!r}; choose from {', '.join(FORMATS)}")
    if config.opset < 19:
        raise ConfigError(f"opset is {config.opset}; deformable convolution is in ONNX from opset 19 on")
    if min(config.size) < 32:
        raise ConfigError(f"size is {config.size}; expected [height, width] of 32 px or more")
    suffix = FORMATS[config.format]
    output = Path(config.output) if config.output else Path(config.run) / f"net{suffix}"
    if output.suffix != suffix:  # torch warns at length, and other programs know a file by it
        raise ConfigError(f"output={output}: a file of format={config.format} has to end in {suffix}")
    print(export_run(load_config(config.run, config), config, output))


if __name__ == "__main__":
    main()
