"""RoI pooling in every convention against slow loops, by hand, and torchvision's; and what odd boxes do."""

import itertools
import math

import pytest
import torch
import torchvision

from seg.ops import DeformPSRoIPool, DeformRoIPool, bin_boxes, deform_ps_roi_pool, deform_roi_pool, ps_roi_pool

pytestmark = pytest.mark.usefixtures("body")
MODES = ("paper", "release", "mmcv")


# -- the definitions, one sample at a time ----------------------------------------------------------------------------


def away(value):
    """C's round: halves away from zero."""
    return math.copysign(math.floor(abs(value) + 0.5), value)


def zero_outside(plane, y, x):
    """Equation 3 of arXiv:1703.06211: the sum over the cells q next to p of G(q, p) x(q)."""
    total, (rows, columns) = 0.0, shape(plane)
    for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < rows and 0 <= column < columns:
            total += (1 - abs(row - y)) * (1 - abs(column - x)) * plane[row][column]
    return total


def shape(plane):
    return len(plane), len(plane[0])


def clamped(plane, y, x):
    return zero_outside(plane, *(min(max(p, 0), size - 1) for p, size in zip((y, x), shape(plane), strict=True)))


def paper_bin(plane, box, i, j, k, delta, scale, ratio, gamma):
    """Equation 6: n is the number of the bin's cells inside the map."""
    cells, sides = [], []
    for low, high, number, bins, size in (
        (box[1], box[3], i, k[0], len(plane)),
        (box[0], box[2], j, k[1], len(plane[0])),
    ):
        start = away(low * scale)
        side = max(away(high * scale) - start, 1)
        inside = [
            p
            for p in range(int(side) + 1)
            if math.floor(number * side / bins) <= p < math.ceil((number + 1) * side / bins)
        ]
        cells.append([start + p for p in inside if 0 <= start + p < size])
        sides.append(side)
    values = [
        zero_outside(plane, y + gamma * delta[1] * sides[0], x + gamma * delta[0] * sides[1])
        for y, x in itertools.product(*cells)
    ]
    return sum(values) / len(values) if values else 0.0


def release_bin(plane, box, i, j, k, delta, scale, ratio, gamma):
    points = []
    for low, high, number, bins, moved in ((box[1], box[3], i, k[0], delta[1]), (box[0], box[2], j, k[1], delta[0])):
        start, end = away(low) * scale - 0.5, (away(high) + 1) * scale - 0.5
        side = max(end - start, 0.1)
        points.append(
            [start + number * side / bins + moved * gamma * side + s * side / bins / ratio for s in range(ratio)]
        )
    kept = [
        clamped(plane, y, x)
        for y, x in itertools.product(*points)
        if -0.5 <= y <= len(plane) - 0.5 and -0.5 <= x <= len(plane[0]) - 0.5
    ]
    return sum(kept) / len(kept) if kept else 0.0


def mmcv_bin(plane, box, i, j, k, delta, scale, ratio, gamma):
    points = []
    for low, high, number, bins, moved in ((box[1], box[3], i, k[0], delta[1]), (box[0], box[2], j, k[1], delta[0])):
        start, end = low * scale - 0.5, high * scale - 0.5
        side = end - start
        samples = ratio or max(math.ceil(side / bins), 0)
        points.append(
            [
                start + moved * gamma * side + number * side / bins + (s + 0.5) * side / bins / samples
                for s in range(samples)
            ]
        )
    values = [
        clamped(plane, y, x) if -1 <= y <= len(plane) and -1 <= x <= len(plane[0]) else 0.0
        for y, x in itertools.product(*points)
    ]
    return sum(values) / max(len(values), 1)


def cells_bin(plane, box, i, j, k, delta, scale, ratio, gamma):
    """The released plain position-sensitive pooling."""
    ranges = []
    for low, high, number, bins, size in (
        (box[1], box[3], i, k[0], len(plane)),
        (box[0], box[2], j, k[1], len(plane[0])),
    ):
        start, end = away(low) * scale, (away(high) + 1) * scale
        side = max(end - start, 0.1)
        edges = math.floor(number * (side / bins) + start), math.ceil((number + 1) * (side / bins) + start)
        ranges.append(range(*(min(max(edge, 0), size) for edge in edges)))
    values = [plane[y][x] for y, x in itertools.product(*ranges)]
    return sum(values) / len(values) if values else 0.0


BINS = {"paper": paper_bin, "release": release_bin, "mmcv": mmcv_bin, "cells": cells_bin}


def by_loops(input, rois, offset, size, scale, ratio, gamma, groups, mask, mode):
    """Every output by itself."""
    outputs, planes = input.shape[1] // (groups[0] * groups[1]), input.tolist()
    out = torch.zeros(len(rois), outputs, *size, dtype=input.dtype)
    classes = 1 if offset is None else offset.shape[1] // 2
    for r, o, i, j in itertools.product(*map(range, out.shape)):
        k = o // (outputs // classes)
        delta, factor = (0.0, 0.0), 1.0
        if offset is not None:
            part = i * offset.shape[2] // size[0], j * offset.shape[3] // size[1]
            delta = offset[r, 2 * k, *part].item(), offset[r, 2 * k + 1, *part].item()
        if mask is not None:
            factor = mask[r, k, i, j].item()
        channel = (o * groups[0] + i * groups[0] // size[0]) * groups[1] + j * groups[1] // size[1]
        plane, box = planes[int(rois[r, 0])][channel], rois[r, 1:].tolist()
        out[r, o, i, j] = factor * BINS[mode](plane, box, i, j, size, delta, scale, ratio, gamma)
    return out


BOXES = [
    [0, 2, 1, 9, 7],  # inside
    [1, 0.4, 3.7, 6.5, 10.2],  # between cells
    [1, -4, -3, 5, 4],  # over the border
    [0, 7, 6, 25, 30],
    [0, 5, 5, 5, 5],  # of no size
    [1, 8, 7, 3, 2],  # turned round
    [0, -30, 2, -20, 8],  # outside
]


def case(groups=(1, 1), classes=1, parts=None, dtype=torch.float64, boxes=BOXES, size=(3, 2)):
    """A map of 2 images, 7x8 cells, and boxes of every kind."""
    torch.manual_seed(0)
    rois = torch.tensor(boxes, dtype=dtype).reshape(-1, 5)
    input = torch.randn(2, 2 * classes * groups[0] * groups[1], 7, 8, dtype=dtype)
    offset = 2 * torch.randn(len(rois), 2 * classes, *(parts or size), dtype=dtype)
    mask = torch.rand(len(rois), classes, *size, dtype=dtype)
    return [t.requires_grad_() for t in (input, offset, mask)], rois


@pytest.mark.parametrize("groups, classes, parts", [((1, 1), 1, None), ((3, 2), 1, (1, 2)), ((3, 1), 3, None)])
@pytest.mark.parametrize("mode, ratio", [("paper", 0), ("release", 2), ("release", 4), ("mmcv", 0), ("mmcv", 3)])
def test_values_are_those_of_the_definition_in_loops(mode, ratio, groups, classes, parts, relative_error):
    (input, offset, mask), rois = case(groups, classes, parts)
    found = deform_ps_roi_pool(input, rois, offset, (3, 2), 0.8, ratio, 0.1, group_size=groups, mask=mask, mode=mode)
    expected = by_loops(input, rois, offset, (3, 2), 0.8, ratio, 0.1, groups, mask, mode)
    assert relative_error(found, expected) < 1e-12


@pytest.mark.parametrize("mode, loops", [("paper", "paper"), ("release", "cells"), ("mmcv", "mmcv")])
def test_plain_position_sensitive_pooling_is_the_definition(mode, loops, relative_error):
    (input, _, mask), rois = case((3, 2))
    found = ps_roi_pool(input, rois, (3, 2), 0.8, mask=mask, mode=mode)
    assert relative_error(found, by_loops(input, rois, None, (3, 2), 0.8, 0, 0.1, (3, 2), mask, loops)) < 1e-12


@pytest.mark.parametrize("scale", [1.0, 0.5, 1 / 16])
def test_paper_is_torchvisions_where_no_box_reaches_the_last_row_and_column(scale, relative_error):
    torch.manual_seed(1)
    input = torch.randn(2, 2 * 9, 20, 24, dtype=torch.float64, requires_grad=True)
    corners = torch.rand(40, 4, dtype=torch.float64) * torch.tensor([11, 9, 11, 9]) / scale
    rois = torch.cat((torch.arange(40).view(-1, 1) % 2, corners[:, :2], corners[:, :2] + corners[:, 2:]), dim=1)
    found, expected = (f(input, rois, 3, scale) for f in (ps_roi_pool, torchvision.ops.ps_roi_pool))
    assert relative_error(found, expected) < 1e-12
    grad = torch.randn_like(found)
    gradients = (torch.autograd.grad(out, input, grad)[0] for out in (found, expected))
    assert relative_error(*gradients) < 1e-12


# -- by hand ----------------------------------------------------------------------------------------------------------

COUNTED = torch.arange(25.0).view(1, 1, 5, 5)  # cell (y, x) holds 5 y + x


def by_hand(offset, mode="paper", ratio=0, box=(0, 0, 4, 4), **options):
    offset = None if offset is None else torch.tensor(offset, dtype=torch.float32).view(1, 2, 2, 2)
    return deform_roi_pool(COUNTED, torch.tensor([[0.0, *box]]), offset, 2, 1.0, ratio, 0.1, mode=mode, **options)[0, 0]


def test_paper_by_hand_means_of_two_by_two_cells():
    assert by_hand(None).tolist() == [[3, 5], [13, 15]]


def test_paper_by_hand_bins_share_a_cell_where_the_side_is_odd():
    assert by_hand(None, box=(0, 0, 3, 3)).tolist() == [[3, 4], [8, 9]]


def test_first_channel_of_offsets_moves_by_x_and_the_second_by_y():
    # 0.1 * 2.5 * 4 cells = one cell, which is worth 1 along x and 5 along y
    assert by_hand([2.5, 0, 0, 0] + [0] * 4).tolist() == [[4, 5], [13, 15]]
    assert by_hand([0] * 4 + [0, 0, 0, 2.5]).tolist() == [[3, 5], [13, 20]]


def test_paper_by_hand_half_of_a_moved_bin_is_outside():
    # the right bins move by 2 cells to columns 4 and 5, of which the map has one
    found = by_hand([0, 5, 0, 5] + [0] * 4)
    torch.testing.assert_close(found, torch.tensor([[3, (4 + 9) / 4], [13, (14 + 19) / 4]]))


def test_release_by_hand_leaves_out_what_is_outside():
    # a box of px 0 to 3 is -0.5 to 3.5; 2 samples a bin lie at -0.5 and 0.5, or 1.5 and 2.5; -0.5 is clamped to 0
    assert by_hand(None, "release", 2, box=(0, 0, 3, 3)).tolist() == [[1.5, 3.25], [10.25, 12.0]]
    # moved by 0.1 * 7.5 * 4 = 3 cells: 4.5 is clamped to 4, 5.5 does not count
    found = by_hand([0, 7.5, 0, 7.5] + [0] * 4, "release", 2, box=(0, 0, 3, 3))
    torch.testing.assert_close(found, torch.tensor([[1.5, 1.25 + 4], [10.25, 10 + 4]]))


def test_mmcv_by_hand_counts_what_is_outside_as_zero():
    # the middles of the parts of a box from -0.5 to 3.5 are the cells 0 to 3
    assert by_hand(None, "mmcv", 2).tolist() == [[3, 5], [13, 15]]
    found = by_hand([0, 7.5, 0, 7.5] + [0] * 4, "mmcv", 2)  # to 5, which reads the edge, and 6, which reads nothing
    torch.testing.assert_close(found, torch.tensor([[3, (4 + 9) / 4], [13, (14 + 19) / 4]]))


def test_mask_scales_each_bin():
    mask = torch.tensor([[1.0, 2.0], [0.5, 0.0]]).view(1, 1, 2, 2)
    assert by_hand(None, mask=mask).tolist() == [[3, 10], [6.5, 0]]


def test_bin_boxes_move_by_shares_of_the_box():
    offset = torch.zeros(1, 2, 2, 2)
    offset[0, 0, 0, 1], offset[0, 1, 1, 0] = 5.0, -5.0
    boxes = bin_boxes(torch.tensor([[0.0, 10, 20, 18, 40]]), offset, 2)[0, 0]
    moved = [[[10, 20, 14, 30], [18, 20, 22, 30]], [[10, 20, 14, 30], [14, 30, 18, 40]]]
    torch.testing.assert_close(boxes, torch.tensor(moved, dtype=torch.float32))  # by 4 px to the right, by 10 px up


# -- gradients and what torch asks of an operator ---------------------------------------------------------------------


@pytest.mark.parametrize("groups, classes", [((1, 1), 1), ((3, 1), 2)])
@pytest.mark.parametrize("mode, ratio", [("paper", 0), ("release", 3), ("mmcv", 2)])
def test_gradcheck_of_input_offset_and_mask(mode, ratio, groups, classes):
    tensors, rois = case(groups, classes, boxes=BOXES[:5])

    def run(input, offset, mask):
        return deform_ps_roi_pool(input, rois, offset, (3, 2), 0.83, ratio, group_size=groups, mask=mask, mode=mode)

    assert torch.autograd.gradcheck(run, tensors, fast_mode=classes > 1)
    assert torch.autograd.gradgradcheck(run, tensors, fast_mode=True)


def arguments(dtype=torch.float32, mask=True):
    (input, offset, factor), rois = case((3, 2), 2, dtype=torch.float32)
    first = offset.detach().abs().view(7, 2, 2, 3, 2).permute(0, 1, 3, 4, 2).contiguous().requires_grad_()
    step = torch.rand(7, 2)
    count = torch.randint(0, 4, (7, 3, 2, 2), dtype=torch.int32)
    input = input.detach().to(dtype).requires_grad_()
    return input, rois, first, step, count, factor if mask else None, [3, 2]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("rule, dtype", [(0, torch.float32), (1, torch.bfloat16), (2, torch.float16)])
def test_opcheck_of_both_operators(rule, dtype, mask):
    given = arguments(dtype, mask)
    torch.library.opcheck(torch.ops.seg.roi_pool, (*given, rule))
    plain = [t.detach() if isinstance(t, torch.Tensor) else t for t in given]
    grad = torch.randn_like(torch.ops.seg.roi_pool(*plain, rule))
    torch.library.opcheck(torch.ops.seg.roi_pool_backward, (grad, *plain, rule, [True, True, mask]))
    torch.library.opcheck(torch.ops.seg.roi_pool_backward, (grad, *plain, rule, [False, True, False]))


def test_compiles_as_one_graph(relative_error):
    (input, offset, _), rois = case(dtype=torch.float32)

    def run(input, rois, offset):
        return deform_roi_pool(input * 2, rois, offset, (3, 2), 0.8).relu()

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert relative_error(compiled(input, rois, offset), run(input, rois, offset)) <= 1e-6


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, for forward mode
@pytest.mark.parametrize("argument", range(3))
def test_forward_mode_is_refused_in_place_of_a_derivative_of_zero(argument):
    tensors, rois = case()
    tensors = [t.detach() for t in tensors]

    def run(tensor):
        input, offset, mask = (*tensors[:argument], tensor, *tensors[argument + 1 :])
        return deform_roi_pool(input, rois, offset, (3, 2), mask=mask)

    with pytest.raises(NotImplementedError, match=r"autograd\.functional\.jvp works"):
        torch.func.jvp(run, (tensors[argument],), (torch.ones_like(tensors[argument]),))
    _, slope = torch.autograd.functional.jvp(run, tensors[argument], torch.ones_like(tensors[argument]))
    assert slope.any()


@pytest.mark.parametrize("mode", MODES)
def test_two_runs_give_the_same_bits_for_any_number_of_threads(mode, body):
    torch.manual_seed(0)
    tensors = [torch.randn(*s).requires_grad_() for s in ((2, 200, 11, 13), (60, 2, 5, 5), (60, 1, 5, 5))]
    rois = torch.rand(60, 5) * 90
    rois[:, 0], rois[:, 3:] = torch.arange(60) % 2, rois[:, 1:3] + rois[:, 3:]
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            out = deform_roi_pool(tensors[0], rois, tensors[1], 5, 1 / 16, mask=tensors[2], mode=mode)
            runs.append((out, *torch.autograd.grad(out.square().sum(), tensors)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(runs[2], runs[3], strict=True))
    if body == "compiled":
        assert all(torch.equal(a, b) for run in runs for a, b in zip(runs[0], run, strict=True))


@pytest.mark.usefixtures("body")
def test_autocast_changes_nothing():
    torch.manual_seed(0)
    input, offset = torch.randn(2, 8, 6, 7).requires_grad_(), torch.randn(len(BOXES), 2, 3, 4).requires_grad_()

    def run():
        out = deform_roi_pool(input, torch.tensor(BOXES), offset, (3, 4), 0.8)
        return out, *torch.autograd.grad(out.square().sum(), [input, offset])

    expected = run()
    with torch.autocast("cpu", torch.bfloat16):
        found = run()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [3, 67, 160])
def test_other_dtypes_and_layouts_agree_with_float64(mode, dtype, tolerance, channels, layouts, relative_error):
    torch.manual_seed(0)
    rois = torch.tensor(BOXES)
    offset = torch.randn(len(rois), 2, 3, 4)
    for name in ("contiguous", "channels_last", "strided"):
        input = layouts[name](torch.randn(2, channels, 6, 7).to(dtype)).requires_grad_()
        found = deform_roi_pool(input, rois, offset, (3, 4), 0.8, mode=mode)
        double = input.detach().double().requires_grad_()
        expected = deform_roi_pool(double, rois.double(), offset.double(), (3, 4), 0.8, mode=mode)
        assert found.dtype == dtype
        assert relative_error(found, expected) < tolerance
        grad = torch.randint(-3, 4, found.shape)
        gradients = (torch.autograd.grad(out, t, grad.to(out))[0] for out, t in ((found, input), (expected, double)))
        assert relative_error(*gradients) < tolerance


# -- odd boxes and arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("boxes", [torch.zeros(0, 5), [torch.zeros(0, 4), torch.zeros(0, 4)]])
def test_no_boxes_pool_to_an_empty_tensor_with_zero_gradients(mode, boxes):
    input = torch.randn(2, 6, 5, 5, requires_grad=True)
    out = deform_roi_pool(input, boxes, torch.zeros(0, 2, 3, 3), 3, mode=mode)
    assert out.shape == (0, 6, 3, 3)
    assert not torch.autograd.grad(out.sum(), input)[0].any()


def test_a_list_of_boxes_is_numbered_by_image():
    input = torch.randn(2, 6, 5, 5)
    boxes = [torch.tensor([[0.0, 0, 3, 3]]), torch.tensor([[1.0, 1, 4, 4], [0, 0, 2, 2]])]
    rois = torch.tensor([[0.0, 0, 0, 3, 3], [1, 1, 1, 4, 4], [1, 0, 0, 2, 2]])
    assert torch.equal(deform_roi_pool(input, boxes, None, 3), deform_roi_pool(input, rois, None, 3))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("box", [(-90, -90, -50, -50), (50, 50, 90, 90), (0, 70, 4, 90)])
def test_boxes_outside_pool_to_zero(mode, box):
    assert not by_hand(None, mode, box=box).any()


def test_boxes_of_no_or_negative_size_are_of_the_least_size():
    cell = COUNTED[0, 0, 3, 2]
    for box in ((2, 3, 2, 3), (2, 3, 0, -4)):
        assert by_hand(None, box=box).eq(cell).all()
        assert by_hand(None, "release", 1, box=(2, 3, 0, -4)).tolist() != [[0, 0], [0, 0]]
        assert not by_hand(None, "mmcv", box=box).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [float("inf"), -1e30, 3e9])
def test_bins_moved_far_away_read_nothing_and_their_offsets_get_no_gradient(mode, value):
    (input, offset, mask), rois = case(boxes=BOXES[:4])
    with torch.no_grad():
        offset[1, 1, 2, 0] = value
    out = deform_roi_pool(input, rois, offset, (3, 2), 0.8, mask=mask, mode=mode)
    gradients = torch.autograd.grad(out.sum(), (input, offset, mask))
    assert not out[1, :, 2, 0].any()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[1][1, 1, 2, 0] == 0


@pytest.mark.parametrize("mode", MODES)
def test_nan_offset_makes_nan_of_its_bin_alone(mode):
    (input, offset, mask), rois = case(boxes=BOXES[:4])
    with torch.no_grad():
        offset[1, 0, 2, 0] = float("nan")
    out = deform_roi_pool(input, rois, offset, (3, 2), 0.8, mask=mask, mode=mode)
    touched = torch.zeros_like(out, dtype=torch.bool)
    touched[1, :, 2, 0] = True
    assert torch.equal(out.isnan(), touched)
    assert torch.autograd.grad(out.sum(), input)[0].isfinite().all()


@pytest.mark.parametrize("value", (math.inf, math.nan))
def test_a_cell_that_counts_nothing_leaves_its_value_out(value, body):
    """Samples at whole positions read no neighbour: what lies right behind the box may be anything."""
    if body == "reference":
        pytest.skip("plain torch multiplies whole maps")
    plane = torch.ones(1, 21, 12, 12)  # vectors and single channels
    plane[..., 6, 6] = value
    box = torch.tensor([[0.0, 0, 0, 6, 6]])
    assert torch.equal(deform_roi_pool(plane, box, None, (2, 2), mode="paper"), torch.ones(1, 21, 2, 2))


@pytest.mark.parametrize("image", [-1.0, 2.0, 0.5, float("nan")])
def test_a_box_of_an_image_that_is_not_there_is_an_error(image):
    rois = torch.tensor([[0.0, 0, 0, 3, 3], [image, 0, 0, 3, 3]])
    with pytest.raises(ValueError, match=r"rois\[1\] = .*(belongs to no image: .* 0 to 1|not finite)"):
        deform_roi_pool(torch.randn(2, 3, 5, 5), rois, None, 2)


def test_boxes_without_end_are_errors():
    with pytest.raises(ValueError, match=r"rois\[0\] = .* not finite"):
        deform_roi_pool(torch.randn(1, 3, 5, 5), torch.tensor([[0, 0, 0, float("inf"), 3]]), None, 2)
    with pytest.raises(ValueError, match=r"rois\[0\] = .* more than 16384 samples along a bin"):
        deform_roi_pool(torch.randn(1, 3, 5, 5), torch.tensor([[0, 0, 0, 1e9, 3]]), None, 2, mode="mmcv")


@pytest.mark.parametrize(
    "changes, told",
    [
        (dict(mode="best"), "mode='best' is unknown; it has to be one of paper, release, mmcv"),
        (dict(rois=torch.zeros(2, 4)), r"rois is \[2, 4\] but has to be \[R, 5\]"),
        (dict(rois=[torch.zeros(2, 4)]), "list of 1 tensors but input has 2 images"),
        (dict(rois=[torch.zeros(2, 4), torch.zeros(5)]), r"rois\[1\] is \[5\] but has to be \[L, 4\]"),
        (dict(rois=torch.zeros(2, 5, dtype=torch.int64)), "rois is torch.int64 but has to be of floating point"),
        (dict(offset=torch.zeros(2, 3, 3, 3)), r"offset is \[2, 3, 3, 3\] but has to be \[2, 2\*K"),
        (dict(offset=torch.zeros(1, 2, 3, 3)), "for the 2 boxes"),
        (dict(offset=torch.zeros(2, 8, 3, 3)), "4 classes do not divide the 6 outputs"),
        (dict(offset=torch.zeros(2, 2, 3, 3, device="meta")), "offset is on meta but input is on cpu"),
        (dict(offset=torch.zeros(2, 4, 3, 3), mask=torch.ones(2, 3, 3, 3)), "mask has 3 classes but offset has 2"),
        (dict(output_size=0), r"output_size=\(0, 0\) has to be at least 1"),
        (dict(spatial_scale=0.0), "spatial_scale=0.0 has to be above 0"),
        (dict(sampling_ratio=2), "sampling_ratio=2 has no meaning where a bin reads all its cells"),
        (dict(sampling_ratio=-1, mode="mmcv"), "sampling_ratio=-1 has to be 0 to"),
        (dict(input=torch.randn(6, 5, 5)), r"input is \[6, 5, 5\] but has to be \[N, C, H, W\]"),
        (dict(input=torch.zeros(2, 6, 5, 5, dtype=torch.int32)), "input is torch.int32"),
    ],
)
def test_what_does_not_fit_is_named(changes, told):
    given = dict(input=torch.randn(2, 6, 5, 5), rois=torch.zeros(2, 5), offset=None, output_size=3) | changes
    with pytest.raises(ValueError, match=told):
        deform_roi_pool(**given)


def test_groups_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"group_size=\(2, 2\) has to divide output_size=\(3, 3\)"):
        deform_ps_roi_pool(torch.randn(1, 8, 5, 5), torch.zeros(1, 5), None, 3, group_size=2)
    with pytest.raises(ValueError, match="input has 8 channels, which the 3x3 groups"):
        ps_roi_pool(torch.randn(1, 8, 5, 5), torch.zeros(1, 5), 3)


# -- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("modulated", [False, True])
def test_layers_start_as_plain_pooling_and_their_offsets_learn(mode, modulated, relative_error):
    torch.manual_seed(0)
    rois = torch.tensor(BOXES)
    input = torch.randn(2, 4, 7, 8)
    half = 0.5 if modulated else 1.0  # a sigmoid of zero
    layer = DeformRoIPool(4, 3, spatial_scale=0.8, mode=mode, modulated=modulated, hidden=(8,))
    found = layer(input, rois)
    assert relative_error(found, half * deform_roi_pool(input, rois, None, 3, 0.8, mode=mode)) < 1e-6
    scored = DeformPSRoIPool(4, 6, (3, 2), classes=2, spatial_scale=0.8, mode=mode, modulated=modulated)
    out = scored(input, rois)
    plain = deform_ps_roi_pool(scored.score(input), rois, None, (3, 2), 0.8, mode=mode)
    assert relative_error(out, half * plain) < 1e-6
    (found.square().sum() + out.square().sum()).backward()
    for offset in (layer.offset, scored.offset):
        assert offset.bias.grad.abs().max() > 0
        assert offset.weight.grad.abs().max() > 0


def test_layers_move_x_by_the_first_half_of_what_is_emitted():
    input, rois = COUNTED.clone(), torch.tensor([[0.0, 0, 0, 4, 4]])
    layer = DeformRoIPool(1, 2, spatial_scale=1.0)
    with torch.no_grad():
        layer.offset.bias[:4] = 2.5  # one cell
    assert layer(input, rois)[0, 0].tolist() == [[4, (4 + 3 + 8 + 9) / 4], [14, 16]]


def test_layers_take_no_boxes():
    assert DeformRoIPool(4, 3)(torch.randn(1, 4, 5, 5), torch.zeros(0, 5)).shape == (0, 4, 3, 3)
    assert DeformPSRoIPool(4, 2, 3)(torch.randn(1, 4, 5, 5), torch.zeros(0, 5)).shape == (0, 2, 3, 3)
