"""Keep finished sweeps as JSON, charts and the tables of docs/RESULTS.md: python scripts/evidence.py name=creatures"""

from command import command
from omegaconf import DictConfig


@command("evidence")
def main(config: DictConfig) -> None:
    from pathlib import Path

    from seg.report import evidence, published

    results, page = Path(config.results), Path(config.page)
    sweeps = evidence.read_sweeps(config.runs, config.name) if config.name is not None else {}
    text = page.read_text(encoding="utf-8")
    if sweeps:
        document = evidence.evidence(sweeps, config.name, config.beside)
        charts = evidence.draw(document, sweeps, published.charts(text), Path(config.charts))
        evidence.write({**document, "charts": [path.stem for path in charts]}, results / f"{config.name}.json")
        for path in (results / f"{config.name}.json", *charts):
            print(path)
    page.write_text(published.fill(text, results), encoding="utf-8")
    print(page)
    for words in published.absent(text, results):
        print(f"no results for the table: {words}")


if __name__ == "__main__":
    main()
