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

    wanted: how many from the front of the evaluated split; or a name, a file, or a list of names and files. A command
            line reads VOC's 2007_000033 as the number 2007000033, so names are found without their underscores too;
            of images called 1 to 8, images=4 is the first four and images=[4] the one of that name
    raises: ConfigError that names what is neither, or says that nothing was asked for
    """
    if not wanted:
        raise ConfigError(f"images={wanted}: no image is asked for; give names, files, or a number of images")
    names = OmegaConf.to_object(wanted) if OmegaConf.is_list(wanted) else [wanted]
    if all(isinstance(name, str) and Path(name).is_file() for name in names):  # the run's data may be gone
        yield from ((Unlabelled([Path(name)]), 0) for name in names)
        return
    data = build(config.data.evaluate)
    places = {name.replace("_", ""): index for index, name in enumerate(data.names)}
    places |= {name: index for index, name in enumerate(data.names)}
    if isinstance(wanted, int) and (wanted <= len(data) or str(wanted) not in places):
        if wanted < 0:
            raise ConfigError(f"images={wanted}; expected at least one image")
        yield from ((data, index) for index in range(min(wanted, len(data))))
        return
    for name in names:
        if str(name) in places:
            yield data, places[str(name)]
        elif Path(str(name)).is_file():
            yield Unlabelled([Path(str(name))]), 0
        else:
            raise ConfigError(
                f"images: {name!r} is neither a file nor an image of {data.name} {data.split} "
                f"(such as {data.names[0]}); give names, files, or a number of images"
            )
