"""Evaluate a trained run, or anybody's predicted label images: python scripts/evaluate.py run=RUN_FOLDER"""

from command import command
from omegaconf import DictConfig


@command("evaluate")
def main(config: DictConfig) -> None:
    from pathlib import Path

    from evaluation import evaluate_folder_of_predictions, evaluate_run, place_of
    from run import load_config

    from seg.engine import RunFolder
    from seg.errors import ConfigError
    from seg.report import evaluation_table, read_run

    if config.run is not None and config.predictions is not None:
        raise ConfigError("run= and predictions= are two evaluations; give one of them, not both")
    if config.run is None and config.predictions is None:
        raise ConfigError("give run=RUN_FOLDER, or predictions=FOLDER with data=NAME data.root=FOLDER")
    output = Path(config.output) if config.output else None
    if config.run is not None:
        trained = load_config(config.run, config)
        trained.inference = config.inference
        result = evaluate_run(
            RunFolder(config.run), trained, output=output, examples=config.examples, official=config.official
        )
    else:
        result = evaluate_folder_of_predictions(
            Path(config.predictions), config, output=output, official=config.official
        )
    print(result["protocol"])
    if "official" in result:
        print(f"mIoU by cityscapesscripts: {result['official']['miou']:.6f}; by this program: {result['miou']:.6f}")
    target = output or (Path(config.run) if config.run is not None else place_of(Path(config.predictions)))
    evaluated = read_run(target)
    print(evaluation_table(evaluated))
    print(f"\nall of it is in {target / 'result.json'}")
    if evaluated.state != "done":
        print(f"no report counts it before the training is finished; its state is: {evaluated.state}")


if __name__ == "__main__":
    main()
