"""Exported files compute what the run's own net computes, at sizes that they were not traced with."""

import json
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

import seg.models as models
from seg.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import exporting  # noqa: E402

ABOUT = {"classes": ["a", "b", "c"], "mean": [0.0], "std": [1.0]}
VARIANTS = {
    "deform": lambda i, o, **k: models.Deform(i, o, offset_groups=2, **k),
    "modulated": models.Modulated,
    "active": models.Active,
}


def net(variant: str, upsample: nn.Module | None = None) -> nn.Module:
    """A small net whose offsets are about a cell, and not whole-numbered."""
    torch.manual_seed(0)
    trunk, head = models.tiny(VARIANTS[variant], replaced=2), lambda i, o: models.Head(i, o, hidden=8)
    model = models.DeepLab(trunk, 3, head=head, upsample=upsample)
    for name, parameter in model.named_parameters():
        if "offset" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.filterwarnings("ignore")
def test_a_net_with_a_pooled_branch_is_exported_for_any_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = lambda i, o: models.ASPPv3(i, o, dilations=(1, 2), hidden=8)  # noqa: E731
    model = models.DeepLab(models.tiny(models.Deform), 3, head=head).eval()
    run = exporting.write_torch_export(model, torch.randn(2, 3, 64, 80), tmp_path / "net.pt2", ABOUT)
    for shape in ((2, 3, 64, 80), (1, 3, 77, 51)):
        assert exporting.difference(model, run, torch.randn(shape)) < 1e-5


def test_an_unknown_opset_is_refused() -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ConfigError, match="opset is 99; onnxscript .* does not know it, give a lower one"):
        exporting.deform_conv_node(99)


@pytest.mark.fault(77)
@pytest.mark.parametrize("variant, upsample", [*((v, None) for v in VARIANTS), ("deform", models.FixedDeconv(8))])
@pytest.mark.filterwarnings("ignore")
def test_fault_77_onnx_equals_the_net_at_any_size(variant: str, upsample: nn.Module | None, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", "1.25")
    import onnx

    model, path = net(variant, upsample), tmp_path / "net.onnx"
    run = exporting.write_onnx(model, torch.randn(2, 3, 64, 80), path, ABOUT, 22)
    for shape in ((2, 3, 64, 80), (1, 3, 77, 51), (3, 3, 40, 120)):
        assert exporting.difference(model, run, torch.randn(shape)) < 1e-4
    written = onnx.load(path)
    assert {node.domain for node in written.graph.node} == {""}  # standard nodes only
    assert sum(node.op_type == "DeformConv" for node in written.graph.node) == 2
    assert json.loads({p.key: p.value for p in written.metadata_props}["about"]) == ABOUT


def test_torch_export_equals_the_net_at_any_size(tmp_path: Path) -> None:
    model, path = net("modulated"), tmp_path / "net.pt2"
    run = exporting.write_torch_export(model, torch.randn(2, 3, 64, 80), path, ABOUT)
    for shape in ((2, 3, 64, 80), (1, 3, 77, 51)):
        assert exporting.difference(model, run, torch.randn(shape)) < 1e-5
    extra = {"about.json": ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra["about.json"]) == ABOUT


@pytest.mark.fault(77)
@pytest.mark.parametrize("old", ["1.24.1", "1.9"])
def test_fault_77_an_old_onnxruntime_is_named_with_the_way_out(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "version", lambda package: old)
    with pytest.raises(ConfigError, match=rf"onnxruntime {old} has no DeformConv.*1.25"):
        exporting.require_onnx()


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("format", "tflite", "onnx, torch_export"),
        ("opset", 18, "opset 19"),
        ("output", "net.pt", "format=onnx has to end in .onnx"),
    ],
)
def test_a_wrong_choice_is_named(key: str, value: object, words: str) -> None:
    import export

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("export", ["run=unused", f"{key}={value}"])
    with pytest.raises(ConfigError, match=words):
        export.main.__wrapped__(config)
