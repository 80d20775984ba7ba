"""One name for each weight, whoever wrote the file: torchvision's names for the trunk, ours for the head.

Sources: torchvision's classification and DeepLab v3 nets, mmcv, mmsegmentation and mmdetection, and the released MXNet
(converted from Caffe) ResNet-101 and DeepLab. Weights keep their values: a net trained on BGR images
stays one, unless `load_weights` is told to turn it.
"""

import re

WRAPPING = re.compile(r"^(module\.|_orig_mod\.|model\.|net\.|backbone\.|trunk\.)+")
RULES = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        # mmcv's deformable layers, and mmdetection's first ones
        (r"\.conv_offset\.", ".offset."),
        (r"\.conv2_offset\.", ".conv2.offset."),
        # torchvision's DeepLab v3 head against ASPPv3
        (r"^classifier\.0\.convs\.4\.(\d)\.", lambda m: f"head.pooled.{int(m[1]) - 1}."),
        (r"^classifier\.0\.convs\.", "head.branches."),
        (r"^classifier\.0\.project\.", "head.project.0."),
        (r"^classifier\.([12])\.", lambda m: f"head.mix.{int(m[1]) - 1}."),
        (r"^classifier\.4\.", "head.score."),
    )
)
MXNET_BLOCK = re.compile(r"(res|bn|scale)([2-5])([a-z])(\d*)_branch(1|2[abc])(_offset)?_(\w+)")
MXNET_STEM = re.compile(r"(conv1|bn_conv1|scale_conv1)_(\w+)")
MXNET_HEAD = re.compile(r"(fc6|score)_(weight|bias)")
MXNET_LEAVES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


def canonical(name: str) -> str:
    """`name` in one spelling, e.g. "layer4.0.conv2.weight" for "arg:res5a_branch2b_weight"; unknown names unchanged."""
    name = WRAPPING.sub("", name)
    for pattern, new in RULES:
        name = pattern.sub(new, name)  # type: ignore[arg-type]
    return _mxnet(re.sub(r"^(arg|aux):", "", name))


def _mxnet(name: str) -> str:
    if match := MXNET_BLOCK.fullmatch(name):
        kind, stage, letter, number, branch, offset, leaf = match.groups()
        layer = _mxnet_layer(kind, branch) + (".offset" if offset else "")
        # blocks are a, b, c; or, where there are many, a, b1, b2, ...
        block = int(number) if number else ord(letter) - ord("a")
        return f"layer{int(stage) - 1}.{block}.{layer}.{MXNET_LEAVES.get(leaf, leaf)}"
    if match := MXNET_STEM.fullmatch(name):
        return f"{'conv1' if match[1] == 'conv1' else 'bn1'}.{MXNET_LEAVES.get(match[2], match[2])}"
    if match := MXNET_HEAD.fullmatch(name):
        return f"head.{match[1]}.{match[2]}"
    return name


def _mxnet_layer(kind: str, branch: str) -> str:
    if branch == "1":
        return "downsample.0" if kind == "res" else "downsample.1"
    return ("conv" if kind == "res" else "bn") + str("abc".index(branch[1]) + 1)
