"""Keep finished sweeps; make JSON, charts and tables of all that is kept: python scripts/evidence.py name=creatures"""

from pathlib import Path
from typing import Any

from command import command
from omegaconf import DictConfig


@command("evidence")
def main(config: DictConfig) -> None:
    import os

    from build import listed

    from seg.report import evidence, keeping, published

    results, folder = Path(config.results), Path(config.charts)
    texts = {page: _read(page) for page in map(Path, listed(config.pages))}
    if config.name is not None:
        sweeps = _sweeps(config)
        document = evidence.evidence(sweeps, config.name, config.beside)
        wanted = {name for text in texts.values() for name in published.charts(text)}
        charts = evidence.draw(document, sweeps, wanted, folder)
        keeping.write({**document, "charts": [path.stem for path in charts]}, results / f"{config.name}.json")
        for path in (results / f"{config.name}.json", *charts):
            print(path)
    for page, text in texts.items():
        page.write_text(published.fill(text, results, os.path.relpath(folder, page.parent)), encoding="utf-8")
        print(page)
        for words in published.absent(text, results):
            print(f"no results for the table: {words}")


def _sweeps(config: DictConfig) -> dict[str, Any]:
    """All that is kept of the name's sweeps, once what is finished here is kept too."""
    from seg.errors import ConfigError
    from seg.report import evidence, keeping

    kept = Path(config.results) / "runs"
    keeping.keep(evidence.read_sweeps(config.runs, config.name), kept)
    sweeps = evidence.read_sweeps(kept, config.name)
    if not sweeps:
        raise ConfigError(
            f"runs={config.runs}: no folder {config.name} or {config.name}_... in it, nor in {kept}; "
            "give the folder of the sweeps"
        )
    return sweeps


def _read(page: Path) -> str:
    from seg.errors import ConfigError

    if not page.is_file():
        raise ConfigError(f"pages: there is no {page}; write it with the comments of its tables, or name other pages")
    return page.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
