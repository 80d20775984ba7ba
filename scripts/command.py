"""How every command starts: Hydra composes the configuration; an error is one message and an exit code.

Exit codes: 0 done, 1 failure, 2 wrong usage or configuration, 3 bad data, 75 preempted (run again to go on).
torch is imported by what a command runs, not here, so that --help and --cfg answer at once.
"""

import difflib
import errno
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from sweep import failures

from seg.errors import ConfigError, DataError, Preempted, RunError

CONF = str(Path(__file__).resolve().parents[1] / "conf")
# what neither changes the result nor belongs into the name of a run's folder
NOT_IN_NAME = (
    "run",
    "resume",
    "experiment",
    "evaluate",
    "logger",
    "data.root",
    "data.train.sbd_root",
    "data.workers",
    "data.skip_limit",
    "runtime.device",
    "runtime.threads",
    "runtime.timeout",
    "trainer.log_every",
    "trainer.save_every",
    "trainer.evaluate_every",
    "trainer.keep",
    "trainer.patience",
    "hydra",
)
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
NO_MEMORY = (  # torch's words for the CPU and for a GPU, cuBLAS's, OpenCV's
    "DefaultCPUAllocator", "CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "Insufficient memory",
)  # fmt: skip
PATHS = ("run", "runs", "input", "output", "compare", "predictions", "weights", "data.root")
LONGEST_NAME = 200  # bytes; file systems allow 255


def folder_name(overrides: list[str], *named: str) -> str:
    """The stable folder name of a run: its overrides, less those that do not change what is computed.

    named: keys that are left out as a rule, and are wanted here
    """
    left_out = [key for key in NOT_IN_NAME if key not in named]
    kept = [text.lstrip("+~") for text in overrides]
    kept = [
        text for text in kept if not any(text == key or text.startswith((key + "=", key + ".")) for key in left_out)
    ]
    name = _joined(sorted(kept))
    if len(name) > LONGEST_NAME:  # what is cut off still tells folders apart; what a person looks for stays
        first = sorted(kept, key=lambda text: (not text.startswith(("variant=", "seed=")), text))
        name = f"{_joined(first)[: LONGEST_NAME - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name or "default"


def _joined(overrides: list[str]) -> str:
    return ",".join(overrides).replace("/", ".").replace(" ", "")


def run_folder(overrides: list[str], default: str) -> str:
    """The folder that `run=` names, for what Hydra writes as well, or else the default."""
    given = OverridesParser.create().parse_overrides(list(overrides))
    return next((str(one.value()) for one in given if one.key_or_group == "run" and one.value()), default)


def command(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a function of the configuration a program: `@command("train")` composes conf/train.yaml."""

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def program() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra passes exceptions on to us, in place of its own report
            _let_launchers_find_us()
            if config_name != "train" and not {"-h", "--help"}.isdisjoint(sys.argv[1:]):
                print(_help(config_name))
                return
            if problem := _misused(sys.argv[1:], config_name):
                _tell(ConfigError(problem))
                sys.exit(2)
            sys.argv[1:] = quoted(sys.argv[1:])
            OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
            OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
            main = hydra.main(version_base="1.3", config_path=CONF, config_name=config_name)
            code = _exit_code(main(_job(function)), config_name)
            if "RANK" in os.environ:
                from seg.engine.launch import leave, started_outside

                if started_outside():
                    leave(code)
            sys.exit(code)

        return program

    return decorate


def _misused(arguments: list[str], config_name: str) -> str | None:
    """What Hydra would answer with a traceback, or pass over: a sweep that is to be printed, an added key of no use."""
    if not {"-m", "--multirun"}.isdisjoint(arguments) and not {"-c", "--cfg"}.isdisjoint(
        text.partition("=")[0] for text in arguments
    ):
        return "--cfg shows one job's keys; leave out -m, and name one of each of the values that are swept over"
    if not {"-m", "--multirun"}.isdisjoint(arguments) and _one_of_several():
        return (
            "-m starts runs one after the other, and this process is one of several that share a run; leave out -m, or "
            "start the sweep from one process (trainer.devices=N, or docs/CLUSTERS.md)"
        )
    added = [text.lstrip("+").partition("=")[0] for text in arguments if text.startswith("+")]
    known = {"hydra"}.union(*(f(name) for name in ("train", config_name) for f in (_keys, _groups))) if added else set()
    for key in added:
        place = key.rpartition(".")[0]
        of_a_call = f"{place}._target_" in known or place.startswith("hydra")
        if key not in known and not of_a_call and place in ("", *known) and not {"/", "@"} & set(key):
            return _no_such(key, config_name)
    return None


def quoted(arguments: list[str]) -> list[str]:
    """The arguments as Hydra takes them: a value that it can't read, such as a run's folder, is quoted, as is a path
    that it would take for a number; and ~/ is the home folder, which not every shell puts there.

    In a sweep a comma separates values, so that a value with both is left as it is.
    """
    sweeps = not {"-m", "--multirun"}.isdisjoint(arguments)
    return [text if sweeps and "," in text else _quoted(text) for text in arguments]


def _quoted(text: str) -> str:
    key, _, value = text.partition("=")
    if not value or "'" in value or value[0] in "[{" or key.startswith("-"):
        return text
    if value.startswith("~/"):
        value = os.path.expanduser(value)
    try:
        number = isinstance(OverridesParser.create().parse_override(f"{key}={value}").value(), int | float)
    except HydraException:
        return f"{key}='{value}'"
    return f"{key}='{value}'" if number and key.lstrip("+") in PATHS else f"{key}={value}"


def _help(config_name: str) -> str:
    """What a command takes: its configuration file, which says so, less what is Hydra's, and the choices."""
    text = (Path(CONF) / f"{config_name}.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^(defaults|hydra):\n( .*\n|\n)*", "", text, flags=re.MULTILINE).strip()
    choices = [f"{group}={'|'.join(names)}" for group, names in _groups(config_name).items()]
    return "\n\n".join([text, *(["choices, as files of conf/GROUP:\n  " + "\n  ".join(choices)] if choices else [])])


def _groups(config_name: str) -> dict[str, list[str]]:
    """The groups that a command's configuration takes files of, and the files' names."""
    defaults = OmegaConf.load(Path(CONF) / f"{config_name}.yaml").get("defaults", [])
    groups = [str(key) for entry in defaults if not isinstance(entry, str) for key in entry]
    found = {group: sorted(path.stem for path in (Path(CONF) / group).glob("*.yaml")) for group in groups}
    return {group: names for group, names in found.items() if names}


def _keys(config_name: str) -> list[str]:
    """All keys that the configuration files of a command name."""

    def walk(node: object, path: str) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else ():
            if path or key not in ("defaults", "hydra"):
                yield f"{path}{key}"
                yield from walk(value, f"{path}{key}.")

    files = [(Path(CONF) / f"{config_name}.yaml", "")]
    for group, names in _groups(config_name).items():
        files += [(Path(CONF) / group / f"{name}.yaml", f"{group}.") for name in names]
    return sorted({key for path, group in files for key in walk(OmegaConf.to_container(OmegaConf.load(path)), group)})


def _let_launchers_find_us() -> None:
    """Launchers that start Python anew unpickle the job there, and have to find the modules of this folder."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parent), *([before] if before else [])])


def _job(function: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """The function, which tells of its failure at once: a sweep goes on and raises only at its end."""

    @functools.wraps(function)
    def job(config: DictConfig) -> None:
        try:
            function(config)
        except Preempted:
            if os.environ.get("RANK", "0") != "0":
                return  # the first rank tells; a failure here could end it before that
            _requeue()
            raise
        except Exception as error:
            if not getattr(error, "told", False):
                _tell(error)
                error.told = True  # type: ignore[attr-defined]
            _tidy(error)
            if HydraConfig.get().mode == RunMode.RUN:
                sys.exit(_code_of(error))  # raised, Hydra would add a line that repeats the overrides
            _let_go(error)
            raise

    return job


def _tidy(error: Exception) -> None:
    """Of a run that was refused before it began, leave no folder; of a sweep, which shows all jobs, the reason."""
    config = HydraConfig.get()
    folder, first = Path(config.runtime.output_dir), os.environ.get("RANK", "0") == "0"
    if not (config.output_subdir and first and os.listdir(folder) == [config.output_subdir]):
        return
    if config.mode == RunMode.RUN:
        shutil.rmtree(folder, ignore_errors=True)
        return
    from seg.engine import RunFolder

    RunFolder(folder).mark_failed(error)


def _one_of_several() -> bool:
    """Whether torchrun, or srun where SEG_RANKS says so, started this process as a rank."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", 1) if os.environ.get("SEG_RANKS") == "slurm" else 1
    return max(int(os.environ.get("WORLD_SIZE") or 1), int(tasks)) > 1


def _let_go(error: BaseException | None) -> None:
    """Free what the frames of an error hold, nets among it: a sweep keeps the errors of its jobs until its end."""
    seen: set[int] = set()  # two errors may name each other
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _exit_code(main: Callable[[], None], config_name: str) -> int:
    try:
        main()
    except Preempted as error:
        print(error, file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit as error:  # of a job that has told of its failure, or of Hydra
        if isinstance(error.code, str):
            raise
        return error.code or 0
    except Exception as error:
        if not getattr(error, "told", False):
            _tell(error, config_name)
        if told := failures(error):
            print(told, file=sys.stderr)
        return _code_of(error)
    return 0


def _code_of(error: Exception) -> int:
    if isinstance(error, DataError):
        return 3
    return 2 if isinstance(error, (ConfigError, HydraException, OmegaConfBaseException)) else 1


def _requeue() -> None:
    """Ask Slurm to start this job again, where conf/hydra/launcher/slurm.yaml or the job's script wants that."""
    job, first = os.environ.get("SLURM_JOB_ID"), os.environ.get("RANK", "0") == "0"
    if not (job and first and os.environ.get("SEG_REQUEUE") == "1"):
        return
    from seg.engine.runtime import held_back

    with held_back():  # what ends the other tasks must not come between
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
            told = f"Slurm starts job {job} again" if done.returncode == 0 else done.stderr.strip()
        except OSError as error:  # as in a container
            told = f"job {job} could not be queued again ({error}); queue it by hand: scontrol requeue {job}"
        print(told, file=sys.stderr)


def _out_of_memory(error: Exception) -> str | None:
    """The line that says so, where memory was short, on a GPU or for the CPU; told without importing torch.

    An operator of ours, and a rank of several, leave nothing but the words of torch's error.
    """
    lines = str(error).splitlines() or [type(error).__name__]
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return lines[0]
    return next((line for line in reversed(lines) if any(words in line for words in NO_MEMORY)), None)


def _said_by_hydra(error: Exception, config_name: str) -> str:
    """Hydra's message, with a way out where its own leads nowhere."""
    text = str(error).partition("\nConfig search path")[0].rstrip()
    if found := re.match(r"Could not override '([^']+)'", text):
        return _no_such(found[1], config_name)
    if "hydra/launcher" in text:
        text += "\ninstall it first: scripts/setup.sh sweep, or slurm, or as docs/CLUSTERS.md says"
    cause = str(error.__cause__ or "").partition("\n")[0]
    return text if cause in text else f"{text}\n{cause}"


def _no_such(key: str, config_name: str) -> str:
    """That a key does not exist, and which one may be meant."""
    known = _keys(config_name)
    place, _, name = key.rpartition(".")
    top = f"{place.partition('.')[0]}." if place else ""
    same_name = [other for other in known if other.startswith(top) and other.endswith(f".{name}")]
    close = sorted(same_name, key=len)[:1]  # the one that has it further up is more likely meant
    close = close or difflib.get_close_matches(key, known, n=2, cutoff=0.75)
    hint = f"did you mean {' or '.join(close)}?" if close else "--cfg job prints all"
    if f"{place}._target_" in known:
        hint += f" An argument that was left to its default is added by +{key}=VALUE"
    return f"{key}: there is no such key; {hint}"


def _tell(error: Exception, config_name: str = "train") -> None:
    if line := _out_of_memory(error):
        print(
            f"error: out of memory ({line[:200]}); use a smaller data.batch_size with a larger "
            "trainer.accumulate, a smaller data.train_transform.crop, runtime.precision=bf16, or more trainer.devices; "
            "a net that is trained already takes less by evaluate.py run=FOLDER inference.window=[HEIGHT,WIDTH]",
            file=sys.stderr,
        )
    elif isinstance(error, OverrideParseException):
        key = error.override.partition("=")[0]
        way_out = f"overrides are key=value; quote a value with special characters: \"{key}='...'\""
        print(f"error: {error.override}: can't be read; {way_out}", file=sys.stderr)
    elif isinstance(error, (ConfigError, DataError, RunError, HydraException, OmegaConfBaseException)):
        text = _said_by_hydra(error, config_name) if isinstance(error, HydraException) else str(error).strip()
        print(f"error: {text}", file=sys.stderr)
    elif isinstance(error, OSError) and error.errno in OF_THE_DISK:
        print(
            f"error: {error}; free some space, or choose another disk, and run the same command again", file=sys.stderr
        )
    else:
        traceback.print_exception(error)
