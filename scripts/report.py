"""Compare the runs of a folder: a table here, and a page with figures. python scripts/report.py runs=SWEEP_FOLDER"""

from command import command
from omegaconf import DictConfig


@command("report")
def main(config: DictConfig) -> None:
    from pathlib import Path

    from build import listed

    from seg.errors import ConfigError
    from seg.report import comparison_table, read_runs, write_report

    if config.runs is None:
        raise ConfigError("runs is missing; give the folder of a sweep as runs=FOLDER")
    output = Path(config.output) if config.output else None
    exclude = listed(config.exclude)
    page = write_report(config.runs, output, config.baseline, exclude)
    print(comparison_table(read_runs(config.runs, exclude), config.baseline))
    print(f"\nthe page: {page}")


if __name__ == "__main__":
    main()
