"""Ask any pixel where the layers look: python scripts/explore.py run=RUN_FOLDER images=NAMES output=FILE.html"""

from command import command
from omegaconf import DictConfig


@command("explore")
def main(config: DictConfig) -> None:
    from pathlib import Path

    from exploration import explore
    from run import load_config

    from seg.errors import ConfigError

    for key in ("run", "output"):
        if config[key] is None:
            raise ConfigError(f"{key} is missing; give it as {key}=PATH")
    folders = [config.run, *([config.compare] if config.compare else [])]
    output = Path(config.output)
    page = explore([load_config(folder, config) for folder in folders], config.images)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"output={output}: can't be written ({error.strerror}); give another file") from None
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MB; open it in a browser")


if __name__ == "__main__":
    main()
