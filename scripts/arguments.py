"""The words of a command line: how Hydra has to be given them, and what a wrong one may have been meant to be."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[1] / "conf"
PATHS = ("run", "runs", "input", "output", "compare", "predictions", "weights", "data.root")
GLOBAL = "# @package _global_"  # begins the files of a group whose keys are the configuration's own
# what other programs call our keys
ALSO_CALLED = {
    "backbone": "trunk",
    "pretrained": "weights",
    "learning_rate": "optimizer.lr",
    "epochs": "trainer.iterations",
    "max_steps": "trainer.iterations",
    "gpus": "trainer.devices",
    "amp": "runtime.precision",
    "images": "input",
}
OF_CLASSES = ("classes", "num_classes", "n_classes", "nclasses", "number_of_classes")
CLASSES_OF_DATA = (
    "how many classes there are is told by the data: data.root's classes.txt or classes.json (data=folder), its "
    "classes.json (data=voc, data=camvid) where they are not the data set's own"
)


def misused(arguments: list[str], config_name: str) -> str | None:
    """What Hydra would answer at length, or pass over: an option that there is none of, a sweep that is to be printed,
    an added key of no use."""
    options = [text for text in get_args_parser().parse_known_args(arguments)[1] if text.startswith("-")]
    if options:
        key, _, value = options[0].lstrip("-").partition("=")
        return f"{options[0]}: there is no such option; a key is given without dashes: {key}={value or 'VALUE'}"
    if _sweeps(arguments) and not {"-c", "--cfg"}.isdisjoint(text.partition("=")[0] for text in arguments):
        return "--cfg shows one job's keys; leave out -m, and name one of each of the values that are swept over"
    if _sweeps(arguments) and _one_of_several():
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


def _sweeps(arguments: list[str]) -> bool:
    return not {"-m", "--multirun"}.isdisjoint(arguments)


def _one_of_several() -> bool:
    """Whether torchrun, or srun where SEG_RANKS says so, started this process as a rank."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", 1) if os.environ.get("SEG_RANKS") == "slurm" else 1
    return max(int(os.environ.get("WORLD_SIZE") or 1), int(tasks)) > 1


def options_first(arguments: list[str]) -> list[str]:
    """The arguments with -m and --cfg KIND at the front: Hydra takes no overrides on both sides of an option."""
    front = [
        text in ("-m", "--multirun", "-c", "--cfg") or before in ("-c", "--cfg")
        for before, text in zip(["", *arguments], arguments, strict=False)
    ]
    return [text for wanted in (True, False) for text, first in zip(arguments, front, strict=True) if first == wanted]


def quoted(arguments: list[str]) -> list[str]:
    """The arguments as Hydra takes them: a value that it can't read, such as a run's folder, is quoted, as is a path
    that it would take for a number; and ~/ is the home folder, which not every shell puts there.

    In a sweep a comma separates values, so that a value with both is left as it is.
    """
    sweeps = _sweeps(arguments)
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


def help_of(config_name: str) -> str:
    """What a command takes: its configuration file, which says so, less what is Hydra's, and the choices."""
    text = (CONF / f"{config_name}.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^(defaults|hydra):\n( .*\n|\n)*", "", text, flags=re.MULTILINE).strip()
    choices = [f"{group}={'|'.join(names)}" for group, names in _groups(config_name).items()]
    return "\n\n".join([text, *(["choices, as files of conf/GROUP:\n  " + "\n  ".join(choices)] if choices else [])])


def _groups(config_name: str) -> dict[str, list[str]]:
    """The groups that a command's configuration takes files of, and the files' names."""
    defaults = OmegaConf.load(CONF / f"{config_name}.yaml").get("defaults", [])
    groups = [str(key) for entry in defaults if not isinstance(entry, str) for key in entry]
    found = {group: sorted((CONF / group).rglob("*.yaml")) for group in groups}
    names = {
        group: [path.relative_to(CONF / group).with_suffix("").as_posix() for path in paths]
        for group, paths in found.items()
    }
    return {group: listed for group, listed in names.items() if listed}


def _keys(config_name: str) -> list[str]:
    """All keys that the configuration files of a command name."""
    found = set(_keys_of(CONF / f"{config_name}.yaml"))
    for group, names in _groups(config_name).items():
        for name in names:
            found.update(_keys_of(CONF / group / f"{name}.yaml", f"{group}."))
    return sorted(found)


def _keys_of(path: Path, place: str = "") -> Iterator[str]:
    """The keys that a file names, below its place in the configuration."""
    text = path.read_text(encoding="utf-8")

    def walk(node: object, path: str) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else ():
            if path or key not in ("defaults", "hydra"):
                yield f"{path}{key}"
                yield from walk(value, f"{path}{key}.")

    return walk(OmegaConf.to_container(OmegaConf.create(text)), "" if text.startswith(GLOBAL) else place)


def unreadable(override: str) -> str:
    """That an argument can't be read, and how it is written."""
    key, _, value = override.partition("=")
    way_out = "overrides are key=value, without spaces around the ="
    if value[:1] in ("[", "{"):
        way_out = f'a list is written without spaces, or in quotes: "{key}=[1,2]"'
    elif value:
        way_out = f"overrides are key=value; quote a value with special characters: \"{key}='...'\""
    return f"{override}: can't be read; {way_out}"


def said_by_hydra(error: HydraException, config_name: str) -> str:
    """Hydra's message, with a way out where its own leads nowhere."""
    text = str(error).partition("\nConfig search path")[0].rstrip()
    if found := re.match(r"Could not override '([^']+)'", text):
        return _no_such(found[1], config_name)
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        return _no_such_choice(str(error.missing_cfg_file), error.options or [], config_name)
    if found := re.match(r"Multiple values for (\S+)\. ", text):
        return f"{found[1]} has its choice already; give another one without the +: {found[1]}=CHOICE"
    if found := re.match(r"Ambiguous value for argument '(.+)'", text):
        key, _, value = found[1].partition("=")
        return f"{found[1]}: one value is expected; a list is {key}=[{value}], and to run with each of them add -m"
    cause = str(error.__cause__ or "").partition("\n")[0]
    return text if cause in text else f"{text}\n{cause}"


def _no_such_choice(file: str, options: Iterable[str], config_name: str) -> str:
    """That a group has no such file, and which it has."""
    groups = _groups(config_name)
    inside = [group for group in groups if file.startswith(f"{group}/")]
    group = max(inside, key=len) if inside else file.rpartition("/")[0]
    name = file.removeprefix(f"{group}/")
    known = sorted({*options, *groups.get(group, [])})
    hint = did_you_mean(name, known)
    text = f"{group}={name}: there is no such choice{f'; {hint}' if hint else '.'} There are {', '.join(known)}."
    if group == "hydra/launcher":
        text += "\ninstall it first: scripts/setup.sh sweep, or slurm, or as docs/CLUSTERS.md says"
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The one of the known words that may be meant, as a question; nothing where there is none like it."""

    def likeness(name: str) -> float:
        whole, start = (difflib.SequenceMatcher(None, word, part).ratio() for part in (name, name[: len(word)]))
        return max(whole, start if start > 0.9 else 0)  # a long name is known by its beginning

    closest = max(known, key=likeness, default="")
    return f"did you mean {closest}?" if likeness(closest) >= 0.6 else ""


def _no_such(key: str, config_name: str) -> str:
    """That a key does not exist, and which one may be meant."""
    own = set(_keys_of(CONF / f"{config_name}.yaml"))
    known = [*_keys(config_name), *_groups(config_name)]
    place, _, name = key.rpartition(".")
    if name in OF_CLASSES:
        return f"{key}: there is no such key; {CLASSES_OF_DATA}"
    top = f"{place.partition('.')[0]}." if place else ""
    same_name = [other for other in known if other.startswith(top) and other.endswith(f".{name}")]
    # the command's own, and the one that has it further up, are more likely meant
    close = sorted(same_name, key=lambda other: (other not in own, len(other)))[:1]
    close = close or [other for other in (ALSO_CALLED.get(name),) if other in known]
    close = close or difflib.get_close_matches(key, known, n=2, cutoff=0.75)
    hint = f"did you mean {' or '.join(close)}?" if close else "--cfg job prints all."
    if f"{place}._target_" in known:
        hint += f" An argument that was left to its default is added by +{key}=VALUE."
    return f"{key}: there is no such key; {hint}"
