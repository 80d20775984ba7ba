"""Keep finished sweeps as JSON, charts and the tables of the pages: python scripts/evidence.py name=creatures"""

from pathlib import Path

from command import command
from omegaconf import DictConfig


@command("evidence")
def main(config: DictConfig) -> None:
    import os

    from seg.report import evidence, published

    results, folder = Path(config.results), Path(config.charts)
    sweeps = evidence.read_sweeps(config.runs, config.name) if config.name is not None else {}
    texts = {page: _read(page) for page in map(Path, config.pages)}
    if sweeps:
        document = evidence.evidence(sweeps, config.name, config.beside)
        wanted = {name for text in texts.values() for name in published.charts(text)}
        charts = evidence.draw(document, sweeps, wanted, folder)
        evidence.write({**document, "charts": [path.stem for path in charts]}, results / f"{config.name}.json")
        for path in (results / f"{config.name}.json", *charts):
            print(path)
    for page, text in texts.items():
        page.write_text(published.fill(text, results, os.path.relpath(folder, page.parent)), encoding="utf-8")
        print(page)
        for words in published.absent(text, results):
            print(f"no results for the table: {words}")


def _read(page: Path) -> str:
    from seg.errors import ConfigError

    if not page.is_file():
        raise ConfigError(f"pages: there is no {page}; write it with the comments of its tables, or name other pages")
    return page.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
