"""Every configuration composes, says what it means at every step, and refuses what it should."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from seg.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from build import build, check  # noqa: E402
from command import folder_name, quoted, run_folder  # noqa: E402
from run import label_of  # noqa: E402


def configuration(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, [*overrides, *(["run=unused"] if name == "train" else [])])


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def command(
    *arguments: str, script: str = "train.py", cwd: Path = ROOT, **keywords: object
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        **keywords,
    )


@pytest.mark.parametrize("conv", choices("conv"))
@pytest.mark.parametrize("trunk", choices("trunk"))
def test_every_conv_fits_every_trunk(conv: str, trunk: str) -> None:
    config = configuration(f"conv={conv}", f"trunk={trunk}")
    check(config)
    assert config.trunk.conv == config.conv


@pytest.mark.parametrize("data", choices("data"))
@pytest.mark.parametrize("optimizer", choices("optimizer"))
def test_every_data_set_and_optimizer_is_a_valid_call(data: str, optimizer: str) -> None:
    check(configuration(f"data={data}", "data.root=unused", f"optimizer={optimizer}"))


@pytest.mark.parametrize("variant", choices("variant"))
def test_every_variant_composes_to_the_net_that_it_names(variant: str) -> None:
    config = configuration(f"variant={variant}")
    check(config)
    kind, number, *changed = variant.split("_")
    assert choices("conv").count(kind) == 1
    assert config.conv._target_.lower().endswith("." + kind)
    assert (config.conv.dilation if kind == "dilated" else config.trunk.replaced) == int(number)
    assert config.conv.get("offset_groups", 1) == (int(changed[1]) if "groups" in changed else 1)
    assert config.conv.get("offset_dilation", 1) == (2 if "wide" in changed else 1)
    assert config.optimizer == configuration().optimizer, "trained as the others are"


def test_no_two_variants_have_the_same_label() -> None:
    labels = [label_of(configuration(f"variant={variant}")) for variant in choices("variant")]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ("variant=dilated_2 conv.dilation=4", "dilated 4"),
        ("variant=dilated_4 trunk.replaced=6", "dilated 4, 6 layers"),
        ("variant=deform_3 conv=dilated", "dilated 2"),
        ("variant=deform_3 trunk.replaced=1", "deformable 1 layer"),
        ("variant=deform_3 conv=modulated", "modulated 3 layers"),
        ("variant=modulated_6 conv.dilation=4 conv.offset_groups=2", "modulated 6 layers, dilation 4, 2 offset groups"),
        ("conv=deform conv.offset_dilation=2", "deformable 3 layers, offset layers of dilation 2"),
        ("variant=dilated_2 label=mine", "mine"),
        ("experiment=evidence/creatures_control variant=dilated_4", "dilated 4, wider"),
    ],
)
def test_a_label_is_that_of_the_net_whatever_its_variants_file_is_called(overrides: str, label: str) -> None:
    assert label_of(configuration(*overrides.split())) == label


def test_the_published_labels_are_those_of_the_nets() -> None:
    """Of every run that is kept; an experiment's own label has more behind a comma."""
    for path in (ROOT / "benchmarks/results/runs").glob("*/*/result.json"):
        result = json.loads(path.read_text())
        config = OmegaConf.create({"label": None})
        for key, value in result["config"].items():
            OmegaConf.update(config, key, value)
        assert f"{result['variant']}, ".startswith(f"{label_of(config)}, "), path


@pytest.mark.parametrize("path", sorted((ROOT / "conf/experiment/ablation").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_ablation_is_whole_in_its_file(path: Path) -> None:
    """The file alone says which runs there are and where they go; each of them builds."""
    sweep = OmegaConf.load(path).hydra
    assert OmegaConf.to_container(sweep, resolve=False)["sweep"]["dir"] == f"runs/${{data.name}}/{path.stem}"
    assert sweep.sweeper.params.seed == "0,1,2"
    variants = sweep.sweeper.params.variant.split(",")
    assert variants[0] == "dilated_2"
    assert len(set(variants)) == len(variants) >= 4
    for variant in variants:
        build(configuration(f"experiment=ablation/{path.stem}", f"variant={variant}", "head.hidden=8").model, classes=3)


EVIDENCE = sorted((ROOT / "conf/experiment/evidence").glob("creatures*.yaml"))


def parameters(experiment: str, variant: str) -> int:
    config = configuration(f"experiment=evidence/{experiment}", f"variant={variant}")
    return sum(value.numel() for value in build(config.model, classes=5).parameters())


@pytest.mark.parametrize("path", EVIDENCE, ids=lambda path: path.stem)
def test_evidence_differs_in_what_it_says_alone(path: Path) -> None:
    """One budget, one trunk, the test split, and the same seeds first, but for what the experiment is about."""
    sweep = OmegaConf.load(path).hydra
    assert sweep.sweep.dir == f"runs/evidence/{path.stem}"
    assert "0,1,2,3,4".startswith(str(sweep.sweeper.params.seed))
    variant = sweep.sweeper.params.variant.split(",")[0]
    names = (f"evidence/{path.stem}", "evidence/creatures")
    config, main = (OmegaConf.to_container(configuration(f"experiment={name}", f"variant={variant}")) for name in names)
    about_what = path.stem.rpartition("_")[2]
    assert config["data"]["train"]["split"] == "train"
    assert config["data"]["evaluate"]["split"] == ("val" if about_what == "recipe" else "test"), "chosen on val"
    different = {key for key in main if key != "label" and main[key] != config[key]}
    about = {
        "control": {"trunk"},
        "longer": {"trainer"},
        "longest": {"trainer"},
        "small": {"trunk", "head"},
        "background": {"data"},
        "recipe": {"data", "trainer"},
        "offsets": {"optimizer"},
    }
    assert different == about.get(about_what, set())


@pytest.mark.parametrize("name", ["car_parts", "camvid", "camvid_long", "msrc21"])
def test_training_on_real_images_never_opens_their_test_split(name: str) -> None:
    """It chooses on val; all variants and seeds of a sweep are in its file, and their results in NAME_val."""
    sweep = OmegaConf.load(ROOT / "conf/experiment/evidence" / f"{name}.yaml").hydra
    assert sweep.sweep.dir == f"runs/evidence/{name}_val"
    assert sweep.sweeper.params.seed == "0,1,2"
    assert sweep.sweeper.params.variant == "dilated_2,dilated_4,dilated_6,dilated_8,deform_3,modulated_3"
    given = [f"experiment=evidence/{name}", "data.root=unused"]
    fixed, adapts = (configuration(*given, f"variant={variant}") for variant in ("dilated_2", "deform_3"))
    assert (fixed.data.train.split, fixed.data.evaluate.split) == ("train", "val")
    different = {key for key in fixed if fixed[key] != adapts[key]}
    assert different == {"conv", "trunk", "model"}, "one budget, one learning rate"


@pytest.mark.parametrize(("name", "other"), [("car_parts", "car_parts_settings"), ("camvid", "camvid_offsets")])
def test_offsets_that_learn_faster_differ_in_that_alone(name: str, other: str) -> None:
    given = ("data.root=unused", "variant=deform_3")
    main, faster = (configuration(f"experiment=evidence/{experiment}", *given) for experiment in (name, other))
    assert {key for key in main if main[key] != faster[key]} == {"optimizer", "label"}
    assert {key for key, value in main.optimizer.items() if value != faster.optimizer[key]} == {"offset_lr"}


@pytest.mark.parametrize("name", ["camvid_control", "camvid_longer", "camvid_offsets", "car_parts_settings"])
def test_what_is_tried_beside_them_goes_to_its_own_folder(name: str) -> None:
    sweep = OmegaConf.load(ROOT / "conf/experiment/evidence" / f"{name}.yaml").hydra
    assert sweep.sweep.dir == f"runs/evidence/{name}_val"
    data = configuration(f"experiment=evidence/{name}", "data.root=unused").data
    assert (data.train.split, data.evaluate.split) == ("train", "val")


@pytest.mark.parametrize("name", ["camvid_recipe", "car_parts_recipe", "msrc21_recipe"])
def test_a_learning_rate_is_chosen_on_val(name: str) -> None:
    data = configuration(f"experiment=evidence/{name}", "data.root=unused").data
    assert (data.train.split, data.evaluate.split) == ("train", "val")


def test_the_control_has_no_fewer_parameters_than_the_deformable_net_and_few_more() -> None:
    deformable = parameters("creatures", "deform_3")
    for variant in ("dilated_2", "dilated_4"):
        assert parameters("creatures", variant) < 0.9 * deformable
        assert deformable <= parameters("creatures_control", variant) <= 1.02 * deformable


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "experiment").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_composes(path: Path) -> None:
    name = path.relative_to(ROOT / "conf" / "experiment").with_suffix("").as_posix()
    config = configuration(f"experiment={name}", "data.root=unused")
    check(config)


@pytest.mark.fault(71)
@pytest.mark.parametrize(
    "override, words",
    [
        ("optimizer.lr=abc", "optimizer.lr is 'abc'"),
        ("trainer.iterations=1.5", "trainer.iterations is 1.5"),
        ("+conv.offset_group=4", "conv.offset_group is no argument of seg.models.Deform; did you mean offset_groups?"),
        ("data=voc", "data.root is missing; give it as data.root=VALUE"),
        ("conv._target_=os.system", "conv._target_ is 'os.system'"),
        ("conv._target_=torch.load", "conv._target_ is 'torch.load'"),
        ("conv._target_=numpy.load", "conv._target_ is 'numpy.load'"),
    ],
)
def test_fault_71_72_a_wrong_value_is_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(configuration(override))


@pytest.mark.fault(71)
@pytest.mark.parametrize(
    "overrides, words",
    [
        (["conv.dilation=0"], "dilation is 0"),
        (["trunk.output_stride=3"], "output_stride is 3"),
        (["conv.offset_groups=3"], "offset_groups"),
        (["trunk.replaced=-1"], "replaced is -1"),
    ],
)
def test_fault_71_a_value_out_of_range_is_named(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(configuration(*overrides).model, classes=5)


@pytest.mark.fault(71)
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["conv.dilatoin=4"], "dilatoin"),
        (["conv=deformed"], "modulated"),
        (["optimizer.lr=-1", "trainer.iterations=1"], "lr is -1"),
        (["experiment=ablation/typo"], "ablation/typo"),
        (["data.thresholds=[16,48"], "data.thresholds=[16,48: can't be read"),
        (["seed"], "overrides are key=value"),
        (["trainer.iterations=3e4"], "trainer.iterations is 30000.0: expected a whole number"),
        (["trainer.log_every='2'"], "trainer.log_every is '2': expected a whole number"),
        (["trainer.clip=true"], "trainer.clip is True: expected a number"),
        (["data.bacth_size=4"], "data.bacth_size: there is no such key; did you mean data.batch_size?"),
        (["iterations=4"], "did you mean trainer.iterations?"),
        (["trunk.last_gamma=1"], "An argument that was left to its default is added by +trunk.last_gamma=VALUE"),
        (["data=voc", "data.train.sbd_root=a"], "is added by +data.train.sbd_root=VALUE"),
        (["+iterations=4"], "iterations: there is no such key; did you mean trainer.iterations?"),
        (["+data.crop=4"], "data.crop: there is no such key; did you mean data.train_transform.crop?"),
        (["+sbd_root=a"], "sbd_root: there is no such key; --cfg job prints all"),
        (["-m", "seed=0,1", "--cfg", "job"], "--cfg shows one job's keys; leave out -m"),
        (["conv._target_=seg.models.Mine"], "conv._target_ is 'seg.models.Mine': there is no such function or class"),
        (["hydra/launcher=nobodys"], "install it first: scripts/setup.sh sweep"),
    ],
)
def test_fault_71_commands_end_with_2_and_no_traceback(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = command(*arguments, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr


@pytest.mark.fault(72)
def test_fault_72_a_forbidden_target_never_runs(tmp_path: Path) -> None:
    done = command("conv._target_=os.system", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 2
    assert "only functions and classes of `seg.`" in done.stderr


@pytest.mark.fault(75)
@pytest.mark.fault(74)
def test_fault_75_cfg_and_help_need_neither_torch_nor_network() -> None:
    code = (
        "import runpy, socket, sys; socket.socket.connect = socket.getaddrinfo = None; "
        "sys.modules['torch'] = None; sys.argv = ['train.py', {!r}, {!r}]; "
        "runpy.run_path({!r}, run_name='__main__')"
    )
    environment = {"PYTHONPATH": str(ROOT / "scripts"), "PATH": "/usr/bin:/bin"}
    for flags in (("--cfg", "job"), ("--help", "seed=1")):
        program = code.format(*flags, str(ROOT / "scripts/train.py"))
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert "conv" in done.stdout


@pytest.mark.parametrize(
    "script, words",
    [
        ("predict", "input: null   # an image, a folder of images, a list of files (.txt, one a line), or a video"),
        ("evaluate", "data=camvid|cityscapes"),
        ("doctor", "What this machine has"),
    ],
)
def test_help_says_what_a_command_takes(script: str, words: str) -> None:
    done = command("--help", script=f"{script}.py")
    assert (done.returncode, words in done.stdout, "hydra" in done.stdout) == (0, True, False), done.stdout


def test_a_config_value_reaches_the_layer_by_the_same_word() -> None:
    """Walk: conv=deform conv.offset_groups=4 -> conf/conv/deform.yaml -> ${conv} -> Deform(offset_groups=4)."""
    config = configuration("conv=deform", "conv.offset_groups=4", "trunk=tiny")
    model = build(config.model, classes=5)
    layers = [module for module in model.modules() if type(module).__name__ == "Deform"]
    assert len(layers) == config.trunk.replaced == 3
    assert {layer.offset_groups for layer in layers} == {4}


def test_folder_names_are_stable_and_leave_out_what_changes_nothing() -> None:
    same = ["seed=1", "conv=dilated"]
    assert folder_name(same) == folder_name([*reversed(same), "data.root=/a/b", "resume=auto", "data.workers=4"])
    assert folder_name(same) == folder_name([*same, "trainer.evaluate_every=100", "trainer.keep=1"])
    assert folder_name(["experiment=ablation/x", "seed=1"]) == "seed=1"
    assert folder_name(["seed=1", "experiment=ablation/x"], "experiment") == "experiment=ablation.x,seed=1"
    assert folder_name(["seed=1", "+data.train.sbd_root=a"]) == "seed=1"
    assert folder_name([]) == "default"
    assert "/" not in folder_name(["weights=/a/b.pt"])


def test_what_hydra_writes_goes_to_the_folder_that_is_given() -> None:
    assert run_folder(["seed=1", "run='/a b/c,d'", "runtime.threads=1"], "runs/x") == "/a b/c,d"
    assert run_folder(["seed=1", "+data.run=1"], "runs/x") == "runs/x"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("run=runs/voc/seed=0,variant=deform_3", "runs/voc/seed=0,variant=deform_3"),
        ("run=runs/x=[240,320],y=1", "runs/x=[240,320],y=1"),
        ("run='runs/seed=0'", "runs/seed=0"),
        ("run=[1,2]", [1, 2]),
        ("run=~/runs/é(1)#2", f"{Path.home()}/runs/é(1)#2"),
        ("run=~/runs/a", f"{Path.home()}/runs/a"),
        ("run=2026_11_30", "2026_11_30"),
    ],
)
def test_a_folder_named_by_overrides_is_given_as_it_is(given: str, read: object) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", quoted([given]))
    assert config.run == read


def test_what_hydra_reads_or_a_sweep_separates_is_left_as_it_is() -> None:
    same = ["--config-dir=a=b", "seed=range(start=1,stop=3)", "seed", "run='it=s", "run=it's=1", "-m", "run=a=1,b=2"]
    assert quoted(same) == same
    assert quoted(["-m", "run=a=1"]) == ["-m", "run='a=1'"]


def test_long_folder_names_stay_apart_where_they_differ_at_the_end() -> None:
    names = [folder_name([f"data.{'x' * 300}=1", f"variant={variant}"]) for variant in ("dilated_2", "deform_3")]
    assert len(set(names)) == 2
    assert max(map(len, names)) <= 200
    assert [name.partition(",")[0] for name in names] == ["variant=dilated_2", "variant=deform_3"]


def test_commands_work_from_another_folder(tmp_path: Path) -> None:
    start = time.monotonic()
    done = command("--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0
    assert time.monotonic() - start < 60


def test_a_slurm_job_is_warned_by_the_signal_that_runs_listen_to_and_may_be_queued_again() -> None:
    """submitit's own choice, SIGUSR2, would end the run without saving."""
    slurm = pytest.importorskip("submitit.slurm.slurm")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        launcher = compose("train", ["hydra/launcher=slurm"], return_hydra_config=True).hydra.launcher
    keys = {key: OmegaConf.to_container(launcher[key]) for key in ("additional_parameters", "setup")}
    script = slurm._make_sbatch_string(command="x", folder="folder", **keys)
    assert "#SBATCH --signal=USR1@120\n" in script
    assert "#SBATCH --requeue\n" in script
    assert "export SEG_REQUEUE=1\n" in script
