"""Read every image and mask once, and name all that is wrong: python scripts/check_data.py data=voc data.root=FOLDER"""

from command import command
from omegaconf import DictConfig


@command("check_data")
def main(config: DictConfig) -> None:
    from build import build, check, chosen

    from seg.counts import counted
    from seg.data.check import check as check_data
    from seg.engine.progress import Progress
    from seg.errors import DataError

    check(config)
    problems = 0
    for key in chosen("splits", config.splits, ("train", "evaluate")):
        data = build(config.data[key])
        with Progress(len(data), what=f"reading {data.name} {data.split}") as progress:
            report = check_data(data, thresholds=tuple(config.data.thresholds), progress=progress.update)
        print(report)
        problems += len(report.problems)
    if problems:
        raise DataError(f"{counted(problems, 'problem')} in {data.name}, listed above")


if __name__ == "__main__":
    main()
