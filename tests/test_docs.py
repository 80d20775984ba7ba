"""The pages keep what they promise: links lead somewhere, and commands are accepted as they stand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from arguments import misused, quoted
from build import check
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.test_conf import ROOT, configuration

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
# what a shell makes of a block, with loops and variables: each python command's arguments, as a line of JSON
SHELL = f"""
PATH=
python() {{ {sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@"; }}
torchrun() {{ while [[ $1 == --* ]]; do shift; done; python "$@"; }}
srun() {{ while [[ $1 == --* ]]; do shift; done; "$@"; }}
"""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
        path, _, anchor = "".join(target).partition("#")
        if "://" in path:
            continue
        file = page.parent / path if path else page
        assert file.exists(), "".join(target)
        assert not anchor or anchor in anchors(file), "".join(target)


def commands(page: Path, folder: Path) -> list[list[str]]:
    """The arguments of every python command in a page's blocks, fenced or indented, as bash gives them."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for language, block in FENCED.findall(text) if language != "python"]
    blocks += re.findall(r"(?:^ {4}.*\n)+", FENCED.sub("", text), re.M)
    found = []
    for block in blocks:
        if re.search(r"scripts/\w+\.py", block):
            told = subprocess.run(["bash", "-c", SHELL + block], cwd=folder, capture_output=True, text=True, timeout=99)
            assert "syntax error" not in told.stderr, told.stderr
            found += [json.loads(line) for line in told.stdout.splitlines() if line.startswith("[")]
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_one_that_its_script_accepts(page: Path, tmp_path: Path) -> None:
    found = commands(page, tmp_path)
    assert found or "\npython scripts/" not in page.read_text(encoding="utf-8")
    for script, *arguments in found:
        if not script.startswith("scripts/"):
            continue
        source = (ROOT / script).read_text(encoding="utf-8")
        config_name = re.search(r'@command\("(\w+)"\)', source)
        if config_name is None:  # doctor takes no keys
            assert not arguments, script
            continue
        assert misused(arguments, config_name[1]) is None
        config = configuration(*first_job(quoted(arguments)), name=config_name[1])
        if config_name[1] == "train":
            check(config)


def first_job(arguments: list[str]) -> list[str]:
    """A command's overrides, less Hydra's own; of a sweep the first values."""
    texts = [text for text in arguments if "=" in text and not text.startswith(("-", "hydra"))]
    job = []
    for override, text in zip(OverridesParser.create().parse_overrides(texts), texts, strict=True):
        if override.is_sweep_override():
            text = f"{text.partition('=')[0]}={next(override.sweep_string_iterator())}"
        job.append(text)
    return job
