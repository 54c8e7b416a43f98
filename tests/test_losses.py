"""The loss against results computed by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from refersam.losses import ReferSamLoss, dice_term, iou_term, sample_at


def an_output(
    mask: Tensor, coarse: Tensor | None = None, iou: Tensor | None = None, score: Tensor | None = None
) -> Any:
    """The fields of a ReferSamOutput that the loss reads."""
    return SimpleNamespace(
        mask_logits=mask,
        coarse_mask_logits=mask if coarse is None else coarse,
        iou_scores=iou,
        object_score_logits=score,
    )


def sigmoid(value: float) -> float:
    """1 / (1 + e^-x)."""
    return 1 / (1 + math.exp(-value))


def constant(*values: float, size: int = 4) -> Tensor:
    """Return constant (B, size, size) maps."""
    return torch.tensor(values)[:, None, None].expand(-1, size, size).clone()


def test_sample_at_by_hand() -> None:
    """Pixel centres give pixels, points between them bilinear interpolation, and outside is zero."""
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[10.0, 10.0], [10.0, 10.0]]])
    points = torch.tensor(
        [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [0.5, 0.25], [0.25, 0.375], [0.0, 0.5]]
    )
    sampled = sample_at(maps, points.expand(2, -1, -1))
    # At x = 0 half of the weight is outside the image, where values are zero.
    torch.testing.assert_close(sampled[0], torch.tensor([0, 1, 2, 1.5, 0.5, 0.5, 0.5]))
    torch.testing.assert_close(sampled[1], torch.tensor([10.0, 10, 10, 10, 10, 10, 5]))


def test_sample_at_takes_x_first() -> None:
    """On a map of 1 x 4 pixels, x is along the row."""
    maps = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])
    assert sample_at(maps, torch.tensor([[[0.625, 0.5]]])).item() == pytest.approx(2)


def test_dice_by_hand() -> None:
    """1 - (2 sum(s y) + 1) / (sum(s) + sum(y) + 1), averaged over the batch."""
    logits = torch.tensor([[2.0, -1.0, 0.0], [-3.0, -3.0, -3.0]])
    truth = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    s = [sigmoid(2), sigmoid(-1), 0.5]
    first = 1 - (2 * (s[0] + s[2]) + 1) / (sum(s) + 2 + 1)
    second = 1 - 1 / (3 * sigmoid(-3) + 1)
    assert dice_term(logits, truth).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_whole_loss_by_hand() -> None:
    """On constant maps, sampled in the middle, each term has a closed form."""
    num_points = 8
    loss = ReferSamLoss(num_points=num_points, importance_ratio=0.0)
    points = torch.full((2, num_points, 2), 0.5)
    loss.sample_points = lambda logits, generators: points[: logits.shape[0]]  # type: ignore[method-assign]
    final, coarse, target = constant(2.0, -1.0, size=8), constant(0.5, 3.0, size=2), constant(1.0, 0.0, size=8)
    terms = loss(an_output(final, coarse), target)
    assert set(terms) == {"mask", "dice", "coarse_mask", "coarse_dice", "total"}

    def bce(logit: float, truth: float) -> float:
        return -truth * math.log(sigmoid(logit)) - (1 - truth) * math.log(1 - sigmoid(logit))

    def dice(logit: float, truth: float) -> float:
        s = num_points * sigmoid(logit)
        return 1 - (2 * s * truth + 1) / (s + num_points * truth + 1)

    expected = {
        "mask": (bce(2, 1) + bce(-1, 0)) / 2,
        "dice": (dice(2, 1) + dice(-1, 0)) / 2,
        "coarse_mask": (bce(0.5, 1) + bce(3, 0)) / 2,
        "coarse_dice": (dice(0.5, 1) + dice(3, 0)) / 2,
    }
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-5), name
    assert terms["total"].item() == pytest.approx(sum(expected.values()), rel=1e-5)


def test_iou_term_by_hand() -> None:
    """Squared error to the true IoU at threshold 0; 0 for a no-target phrase."""
    logits = torch.tensor([[[1.0, 0.0], [-1.0, -1.0]], [[1.0, 1.0], [1.0, 1.0]], [[-1.0, -1.0], [-1.0, 2.0]]])
    target = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    # First: 1 of 3 pixels in common; second: no target; third: exact.
    predicted = torch.tensor([0.5, 0.9, 0.8])
    expected = ((0.5 - 1 / 3) ** 2 + (0.8 - 1) ** 2) / 3
    assert iou_term(predicted, logits, target).item() == pytest.approx(expected, rel=1e-5)
    assert iou_term(predicted[1:2], logits[1:2], target[1:2]).item() == 0


def test_iou_term_trains_the_prediction_only() -> None:
    """The true IoU is a constant target; no gradient flows into the mask."""
    predicted, logits = torch.tensor([0.5], requires_grad=True), constant(1.0).requires_grad_()
    iou_term(predicted, logits, constant(1.0)).backward()
    assert predicted.grad is not None
    assert predicted.grad.item() == pytest.approx(2 * (0.5 - 1))
    assert logits.grad is None


def test_weighted_terms_by_hand() -> None:
    """Object term: BCE on "has a target"; both extra terms enter the total with their weights."""
    logits, target = constant(1.0, 1.0), constant(0.0, 0.0)
    target[1, 0, 0] = 1.0  # a single pixel is a target too
    score, iou = torch.tensor([2.0, -1.0]), torch.tensor([0.3, 0.4])
    loss = ReferSamLoss(num_points=4, iou_weight=3.0, object_weight=0.5)
    terms = loss(an_output(logits, iou=iou, score=score), target.bool())
    object_term = (-math.log(1 - sigmoid(2)) - math.log(sigmoid(-1))) / 2
    assert terms["object"].item() == pytest.approx(object_term, rel=1e-5)
    assert terms["iou"].item() == pytest.approx((0.4 - 1 / 16) ** 2 / 2, rel=1e-5)
    plain = sum(terms[name] for name in ("mask", "dice", "coarse_mask", "coarse_dice"))
    assert terms["total"].item() == pytest.approx(plain.item() + 3 * terms["iou"].item() + 0.5 * object_term, rel=1e-5)


def test_weights_of_the_papers_terms() -> None:
    """Cross-entropy, dice and coarse supervision can be disabled; a model without coarse mask has no coarse term."""
    logits, target = torch.randn(2, 8, 8), torch.rand(2, 8, 8).round()
    for weights in ((1, 0, 1), (0, 1, 1), (1, 1, 0), (0.5, 2, 3)):
        mask, dice, coarse = weights
        terms = ReferSamLoss(num_points=16, mask_weight=mask, dice_weight=dice, coarse_weight=coarse)(
            an_output(logits), target
        )
        assert ("coarse_mask" in terms) == (coarse > 0)
        zero = torch.zeros(())
        expected = mask * terms["mask"] + dice * terms["dice"]
        expected += coarse * (mask * terms.get("coarse_mask", zero) + dice * terms.get("coarse_dice", zero))
        torch.testing.assert_close(terms["total"], expected)
    output = an_output(logits)
    output.coarse_mask_logits = None
    assert set(ReferSamLoss(num_points=16)(output, target)) == {"mask", "dice", "total"}


def test_points_by_the_samples_own_number() -> None:
    """The loss of a batch is the mean of its parts, and torch's global generator is not used."""
    logits, target, loss = torch.randn(4, 16, 16), torch.rand(4, 16, 16).round(), ReferSamLoss(num_points=32)
    before = torch.get_rng_state()
    whole = loss(an_output(logits), target, seeds=[7, 8, 9, 10])
    halves = [loss(an_output(logits[i : i + 2]), target[i : i + 2], seeds=[7 + i, 8 + i]) for i in (0, 2)]
    for name, value in whole.items():
        torch.testing.assert_close(value, (halves[0][name] + halves[1][name]) / 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert whole["mask"] != loss(an_output(logits), target, seeds=[1, 2, 3, 4])["mask"]


def test_all_without_target() -> None:
    """A batch of no-target phrases gives a finite loss, and a gradient that lowers the mask everywhere."""
    logits = constant(0.5, -0.5, size=8).requires_grad_()
    output = an_output(logits, iou=torch.tensor([0.5, 0.5]), score=torch.zeros(2))
    terms = ReferSamLoss(num_points=64, iou_weight=1.0, object_weight=1.0)(output, constant(0.0, 0.0, size=8))
    assert terms["iou"].item() == 0
    assert terms["object"].item() == pytest.approx(math.log(2), rel=1e-5)
    assert all(value.isfinite() for value in terms.values())
    terms["total"].backward()
    assert logits.grad is not None
    assert (logits.grad >= 0).all()
    assert logits.grad.sum() > 0


def test_a_perfect_mask_costs_nearly_nothing() -> None:
    """Confident correct masks have a low loss, confident wrong masks a high loss."""
    target = torch.zeros(1, 32, 32)
    target[:, 8:24, 8:24] = 1
    right = ReferSamLoss(num_points=256)(an_output(40 * target - 20), target)["total"].item()
    wrong = ReferSamLoss(num_points=256)(an_output(20 - 40 * target), target)["total"].item()
    assert right < 1.4  # most points lie on the border, where nobody can be sure: at most ln 2 for each mask
    assert wrong > 10


def test_count_and_range_of_points() -> None:
    """The given number of points, in the image, for any shares."""
    logits = torch.randn(3, 16, 16)
    for count, ratio in ((1, 0.75), (7, 0.75), (100, 0.0), (100, 1.0)):
        points = ReferSamLoss(num_points=count, importance_ratio=ratio).sample_points(logits)
        assert points.shape == (3, count, 2)
        assert points.min() >= 0
        assert points.max() <= 1


def test_three_quarters_are_the_most_uncertain_candidates() -> None:
    """The first 75 % are those of 3N candidates with the smallest |logit|; the rest are drawn afterwards."""
    count = 40
    logits = torch.randn(2, 16, 16)
    torch.manual_seed(5)
    points = ReferSamLoss(num_points=count).sample_points(logits)
    torch.manual_seed(5)
    candidates, rest = torch.rand(2, 3 * count, 2), torch.rand(2, count - 30, 2)
    assert torch.equal(points[:, 30:], rest)
    for index in range(2):
        uncertainty = sample_at(logits, candidates)[index].abs()
        expected = {tuple(point) for point in candidates[index][uncertainty.argsort()[:30]].tolist()}
        assert {tuple(point) for point in points[index, :30].tolist()} == expected


def test_uncertain_points_follow_the_border() -> None:
    """Most points are near the sharp border of a mask."""
    logits = torch.linspace(-10, 10, 64).expand(1, 64, 64)
    points = ReferSamLoss(num_points=1000).sample_points(logits)
    x, y = points[0].unbind(dim=1)
    rim = torch.minimum(torch.minimum(x, 1 - x), torch.minimum(y, 1 - y)) < 0.5 / 64  # mixed with the zeros outside
    near = (x - 0.5).abs() < 0.15
    assert (near | rim)[:750].all()
    assert near[:750].float().mean() > 0.95
    assert near[750:].float().mean() == pytest.approx(0.3, abs=0.1)


def test_a_seed_gives_the_same_points() -> None:
    """Equal seeds give equal losses; other seeds differ."""
    torch.manual_seed(1)
    output, target = an_output(torch.randn(2, 16, 16)), (torch.rand(2, 16, 16) > 0.5)
    loss = ReferSamLoss(num_points=50)
    totals = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        totals.append(loss(output, target)["total"].item())
    assert totals[0] == totals[1] != totals[2]


def test_drawing_points_needs_no_gradient() -> None:
    """Points are constants; the gradient goes through the sampled logits."""
    logits = torch.randn(1, 8, 8, requires_grad=True)
    assert not ReferSamLoss(num_points=5).sample_points(logits).requires_grad
    ReferSamLoss(num_points=5)(an_output(logits), torch.ones(1, 8, 8))["total"].backward()
    assert logits.grad is not None
    assert logits.grad.any()


def test_half_precision_logits_are_read_in_float32() -> None:
    """bfloat16 outputs give float32 terms."""
    logits = torch.randn(1, 8, 8)
    terms = ReferSamLoss(num_points=5)(an_output(logits.bfloat16()), torch.ones(1, 8, 8).bool())
    assert {value.dtype for value in terms.values()} == {torch.float32}


@pytest.mark.parametrize(
    "fields", [{"num_points": 0}, {"oversample_ratio": 0.5}, {"importance_ratio": 1.5}, {"importance_ratio": -0.1}]
)
def test_wrong_settings(fields: dict[str, Any]) -> None:
    """Settings out of range are rejected."""
    with pytest.raises(ValueError, match=r"Expected num_points >= 1, oversample_ratio >= 1 and importance_ratio in"):
        ReferSamLoss(**fields)


def test_wrong_target_shape() -> None:
    """The error names the shape of the target."""
    with pytest.raises(ValueError, match=r"must have the shape of mask_logits, \(1, 8, 8\), but has \(1, 4, 4\)"):
        ReferSamLoss()(an_output(torch.zeros(1, 8, 8)), torch.zeros(1, 4, 4))


def test_object_term_without_head() -> None:
    """The term needs the head."""
    with pytest.raises(ValueError, match=r"object_weight needs a model with config\.object_score_head"):
        ReferSamLoss(num_points=4, object_weight=1.0)(an_output(torch.zeros(1, 8, 8)), torch.zeros(1, 8, 8))
