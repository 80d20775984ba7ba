"""The images that a command is to look at: of a run's data set by name or number, or any files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from build import build
from omegaconf import DictConfig, OmegaConf
from prediction import Unlabelled

from seg.errors import ConfigError


def chosen_images(config: DictConfig, wanted: Any) -> Iterator[tuple[Any, int]]:
    """(data set, index) of each image asked for.

    wanted: how many from the front of the evaluated split; or a name, a file, or a list of names and files
    raises: ConfigError that names what is neither, or says that nothing was asked for
    """
    data = build(config.data.evaluate)
    if not wanted:
        raise ConfigError(f"images={wanted}: no image is asked for; give names, files, or a number of images")
    if isinstance(wanted, int):
        if wanted < 0:
            raise ConfigError(f"images={wanted}; expected at least one image")
        yield from ((data, index) for index in range(min(wanted, len(data))))
        return
    for name in [wanted] if isinstance(wanted, str) else OmegaConf.to_object(wanted):
        if str(name) in data.names:
            yield data, data.names.index(str(name))
        elif Path(str(name)).is_file():
            yield Unlabelled([Path(str(name))]), 0
        else:
            raise ConfigError(
                f"images: {name!r} is neither a file nor an image of {data.name} {data.split} "
                f"(such as {data.names[0]}); give names, files, or a number of images"
            )
