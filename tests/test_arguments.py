"""A wrong command line is told in one line: the key as it was given, what is expected of it, and the way out."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from arguments import did_you_mean, misused, options_first  # noqa: E402
from build import build, chosen, listed  # noqa: E402
from expected import expected  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from seg.counts import counted  # noqa: E402
from seg.errors import ConfigError  # noqa: E402
from tests.test_conf import configuration  # noqa: E402

Command = Callable[..., tuple[int, str]]


def told(command: Command, line: str, *more: object) -> str:
    """What a wrong line is answered with; it ends with 2 and has no traceback."""
    script, *arguments = line.split(" ")
    code, said = command(script, *arguments, *more)
    assert code == 2, said
    assert "Traceback" not in said
    return said.partition("error: ")[2].rstrip("\n")


@pytest.mark.parametrize(
    "line, answer",
    [
        ("train varient=dilated_2", "varient: there is no such key; did you mean variant?"),
        ("train +varient=dilated_2", "varient: there is no such key; did you mean variant?"),
        ("train epochs=3", "epochs: there is no such key; did you mean trainer.iterations?"),
        ("evaluate split=test", "split: there is no such key; did you mean data.evaluate.split?"),
        ("train xyz=3", "xyz: there is no such key; --cfg job prints all."),
        (
            "train trunk.last_gamma=1",
            "trunk.last_gamma: there is no such key; --cfg job prints all. "
            "An argument that was left to its default is added by +trunk.last_gamma=VALUE.",
        ),
        (
            "train trunk=resnet110",
            "trunk=resnet110: there is no such choice; did you mean resnet101? "
            "There are resnet101, resnet18, resnet50, tiny.",
        ),
        (
            "train data=pascal",
            "data=pascal: there is no such choice. There are camvid, cityscapes, creatures, folder, voc.",
        ),
        ("train --trunk=tiny", "--trunk=tiny: there is no such option; a key is given without dashes: trunk=tiny"),
        ("train seed=0,1", "seed=0,1: one value is expected; a list is seed=[0,1], and to run with each of them "
            "add -m"),
        ("train data.train_transform.crop=[65, 65]", "data.train_transform.crop=[65,: can't be read; a list is written "
            'without spaces, or in quotes: "data.train_transform.crop=[1,2]"'),
        ("train +variant=dilated_2", "variant has its choice already; give another one without the +: variant=CHOICE"),
        ("train trunk=tniy -m seed=0,1", "trunk=tniy: there is no such choice; did you mean tiny? "
            "There are resnet101, resnet18, resnet50, tiny."),
        ("benchmark run measures=forward", "measures=forward is for ops and model; benchmark.py run has none"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_answered_with_the_one_that_is_meant(command: Command, line: str, answer: str) -> None:
    assert told(command, line.replace("benchmark run", "benchmark what=run")) == answer


def test_a_misspelt_experiment_is_looked_for_in_all_folders(command: Command) -> None:
    answer = told(command, "train experiment=ablation/dilatoin")
    assert "did you mean ablation/dilation_vs_deformable? There are ablation/dilation_vs_deformable, " in answer


@pytest.mark.parametrize("key", ["num_classes", "model.classes", "data.classes", "+classes"])
def test_the_number_of_classes_is_the_datas(command: Command, key: str) -> None:
    answer = told(command, f"train {key}=3")
    assert answer.startswith(f"{key.lstrip('+')}: there is no such key; how many classes there are is told by the data")
    assert "classes.txt" in answer


def test_classes_that_the_data_have_not_are_refused_and_theirs_are_not(command: Command, tmp_path: Path) -> None:
    given = ("trainer.iterations=1", "evaluate=false", "head.hidden=8", "data.batch_size=2")
    answer = told(command, "train +model.classes=3", *given, f"hydra.run.dir={tmp_path / 'a'}")
    assert answer.startswith("model.classes is 3, creatures has 5; how many classes there are is told by the data")
    assert command("train", "+model.classes=5", *given, f"hydra.run.dir={tmp_path / 'b'}")[0] == 0


@pytest.mark.parametrize(
    "line, answer",
    [
        (
            "train data.train_transform.crop=65",
            "data.train_transform.crop is 65: expected two whole numbers or null, such as "
            "data.train_transform.crop=[65,65]",
        ),
        (
            "train data.train_transform.crop=[65]",
            "data.train_transform.crop is [65]: expected two whole numbers or null, such as "
            "data.train_transform.crop=[65,65]",
        ),
        ("train data.thresholds=32", "data.thresholds is 32: expected two numbers, such as data.thresholds=[32,32]"),
        ("train data.thresholds=[64,32]", "data.thresholds is [64, 32]: expected two lengths in px, the smaller one "
            "first"),
        ("train trainer.iterations=abc", "trainer.iterations is 'abc': expected a whole number"),
        ("train seed=-1", "seed is -1: expected a whole number, at least 0"),
        ("train resume=true", "resume is True: expected auto, never, or the path of a checkpoint"),
        ("predict inference.window=64", "inference.window is 64: expected two whole numbers or null, such as "
            "inference.window=[64,64]"),
        ("predict inference.scales=0.5", "inference.scales is 0.5: expected a list of numbers, such as "
            "inference.scales=[0.5]"),
        ("study bins=abc", "bins is 'abc': expected a list of numbers, such as bins=[0.5,2.0]"),
        ("study bins=[3]", "bins is [3]: expected two edges or more in px, each larger than the one before, such as "
            "bins=[0,32,64]"),
        ("study by=area", "by is 'area': expected length, size or seen"),
        ("analyze saliency=true", "saliency is True: expected false, or to be left as it is; its keys are "
            "saliency.bound and saliency.block"),
        ("export opset=abc", "opset is 'abc': expected a whole number"),
        ("benchmark sides=64 what=scaling", "sides is 64: expected a list of whole numbers, at least 1, such as "
            "sides=[64]"),
        ("benchmark threads=abc", "threads is 'abc': expected a whole number, at least 1"),
        ("benchmark what=foo", "what is 'foo'; choose from ops, model, metrics, run, scaling"),
        ("check_data splits=val", "splits has 'val'; choose from train, evaluate"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_key_and_an_example(
    command: Command, line: str, answer: str, tmp_path: Path
) -> None:
    of_a_run = [f"run={tmp_path}"] if line.split()[0] in ("study", "analyze", "export") else []
    of_a_run += [f"{key}={tmp_path}" for key in ("run", "input", "output") if line.startswith("predict")]
    assert told(command, line, *of_a_run) == answer


def test_a_single_name_is_a_list_of_one() -> None:
    known = ["objects", "reach"]
    assert chosen("studies", "reach", known) == chosen("studies", ["reach"], known) == ["reach"]
    assert chosen("studies", None, known) == known
    assert (listed(None), listed(64), listed(OmegaConf.create([1, 2]))) == ([], [64], [1, 2])
    with pytest.raises(ConfigError, match="studies has 'raech'; choose from objects, reach; did you mean reach?"):
        chosen("studies", "raech", known)
    with pytest.raises(ConfigError, match="studies has nothing; choose from objects, reach"):
        chosen("studies", [], known)


@pytest.mark.parametrize(
    "hint, value, words",
    [
        (bool, "no", "true or false"),
        (str | Path, 5, "a name or a path"),
        (Literal["raise", "skip"], "stop", "raise or skip"),
        (Annotated[float, pydantic.Field(ge=0, le=1)], 2, "a number, at least 0 and at most 1"),
        (Sequence[str] | None, "car", "a list of names or null, such as key=[car]"),
        (int | tuple[int, int] | None, "a", "a whole number, two whole numbers or null, such as key=[256,320]"),
        (tuple[float, float, float], 3, "three numbers, such as key=[3,3,3]"),
    ],
)
def test_a_type_is_said_in_words(hint: Any, value: object, words: str) -> None:
    assert expected(hint, "key", value) == words


def test_a_word_like_none_is_answered_with_no_question() -> None:
    assert did_you_mean("zebra", ["dilated", "deform"]) == did_you_mean("zebra", []) == ""
    assert did_you_mean("deformable", ["dilated", "deform"]) == "did you mean deform?"


def test_hydras_own_options_are_options() -> None:
    for line in ("--cfg job", "-c job seed=1", "--config-dir=a -m seed=0,1", "--info plugins"):
        assert misused(line.split(), "train") is None


def test_options_may_stand_between_overrides() -> None:
    assert options_first(["a=1", "--cfg", "job", "b=2"]) == ["--cfg", "job", "a=1", "b=2"]
    assert options_first(["a=[1,", "2]", "-m", "b=2"]) == ["-m", "a=[1,", "2]", "b=2"]


def test_an_argument_of_another_version_is_named_by_its_key() -> None:
    config = configuration("+trunk.old_key=3")
    with pytest.raises(ConfigError, match="model.trunk.old_key is no argument here; leave it out, or run the version"):
        build(config.model, classes=5)
    with pytest.raises(ConfigError, match="model.classes is given by the program itself; leave it out"):
        build(configuration("+head.classes=3").model, classes=5)


def test_a_folder_of_runs_is_answered_with_one_of_them(command: Command, tmp_path: Path) -> None:
    (tmp_path / "seed=0").mkdir()
    (tmp_path / "seed=0" / "config.yaml").write_text("")
    answer = told(command, "evaluate", f"run={tmp_path}")
    assert answer.endswith(f"it has no config.yaml; give one of the runs in it, such as run={tmp_path / 'seed=0'}")
    assert "is not the configuration of a training, or was cut off" in told(
        command, "evaluate", f"run={tmp_path / 'seed=0'}"
    )


def test_weights_of_another_trunk_name_the_trunk_to_choose(command: Command, tmp_path: Path) -> None:
    from seg.models import Dilated, resnet18

    torch.save(resnet18(Dilated).state_dict(), tmp_path / "net.pth")
    code, said = command("train", f"weights={tmp_path / 'net.pth'}", f"hydra.run.dir={tmp_path / 'run'}")
    assert (code, "it looks like a resnet18's: choose trunk=resnet18, or another file" in said) == (3, True), said
    answer = told(command, "train weights=nofile.pth", f"hydra.run.dir={tmp_path / 'run'}")
    names = answer[answer.index("(") + 1 : answer.index(")")].split(", ")
    trunks = {path.stem for path in (ROOT / "conf" / "trunk").glob("*.yaml")}
    assert {name.removesuffix("-imagenet") for name in names} == trunks - {"tiny"}


@pytest.mark.parametrize(
    "number, noun, words",
    [(0, "problem", "0 problems"), (1, "problem", "1 problem"), (2, "class", "2 classes"), (3, "box", "3 boxes")],
)
def test_things_are_counted_in_words(number: int, noun: str, words: str) -> None:
    assert counted(number, noun) == words


def test_doctor_names_the_argument_that_it_does_not_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import doctor

    monkeypatch.setattr(sys, "argv", ["doctor.py", "key=3"])
    assert doctor.main() == 2
    assert "error: key=3: doctor.py takes no arguments" in capsys.readouterr().err
