"""How every command starts: Hydra composes the configuration; an error is one message and an exit code.

Exit codes: 0 done, 1 failure, 2 wrong usage or configuration, 3 bad data, 75 preempted (run again to go on).
torch is imported by what a command runs, not here, so that --help and --cfg answer at once.
"""

import errno
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import hydra
from arguments import CONF, help_of, misused, options_first, quoted, said_by_hydra, unreadable
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from sweep import failures

from seg.errors import ConfigError, DataError, Preempted, RunError

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
                print(help_of(config_name))
                return
            if problem := misused(sys.argv[1:], config_name):
                _tell(ConfigError(problem))
                sys.exit(2)
            sys.argv[1:] = quoted(options_first(sys.argv[1:]))
            OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
            OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
            main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
            code = _exit_code(main(_job(function)), config_name)
            if "RANK" in os.environ:
                from seg.engine.launch import leave, started_outside

                if started_outside():
                    leave(code)
            sys.exit(code)

        return program

    return decorate


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


def _tell(error: Exception, config_name: str = "train") -> None:
    if line := _out_of_memory(error):
        print(
            f"error: out of memory ({line[:200]}); use a smaller data.batch_size with a larger "
            "trainer.accumulate, a smaller data.train_transform.crop, runtime.precision=bf16, or more trainer.devices; "
            "a net that is trained already takes less by evaluate.py run=FOLDER inference.window=[HEIGHT,WIDTH]",
            file=sys.stderr,
        )
    elif isinstance(error, OverrideParseException):
        print(f"error: {unreadable(error.override)}", file=sys.stderr)
    elif isinstance(error, (ConfigError, DataError, RunError, HydraException, OmegaConfBaseException)):
        text = said_by_hydra(error, config_name) if isinstance(error, HydraException) else str(error).strip()
        print(f"error: {text}", file=sys.stderr)
    elif isinstance(error, OSError) and error.errno in OF_THE_DISK:
        print(
            f"error: {error}; free some space, or choose another disk, and run the same command again", file=sys.stderr
        )
    else:
        traceback.print_exception(error)
