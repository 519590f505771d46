"""Groups of parameters and their rates; what a recipe of before trains to; accumulation and clipping."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from voxelsam import adapt, backbones, bundle, config
from voxelsam.adapt import Adaptation
from voxelsam.data.loader import Stacks
from voxelsam.errors import ConfigError
from voxelsam.train import optim, run, schedule
from voxelsam.train.job import Job, start
from voxelsam.train.losses import dice_ce
from voxelsam.train.recipe import TrainSection

Settings = dict[str, dict[str, Any]]


def adaptation(name: str) -> Adaptation:
    backbone, _ = backbones.obtain("sam-tiny", None, (32, 32))
    options = {"rank": 4, "width": 16} if name == "ma_sam" else {}
    return adapt.build(name, options, backbone, 3)


def by_name(network: Adaptation, settings: TrainSection) -> dict[str, dict[str, Any]]:
    """The group of each trained parameter."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = [(names[id(one)], group) for group in optim.groups(network, settings) for one in group["params"]]
    assert len({name for name, _ in found}) == len(found)
    assert {name for name, _ in found} == {name for name, one in network.named_parameters() if one.requires_grad}
    return dict(found)


class TestGroups:
    @pytest.mark.parametrize("name", ["ma_sam", "med_sa", "adalora", "full", "decoder_only"])
    def test_by_default_there_is_one_and_it_has_everything_in_order(self, name: str) -> None:
        network = adaptation(name)
        (group,) = optim.groups(network, TrainSection())
        assert (group["lr"], group["weight_decay"], group["share"]) == (8e-4, 0.1, 1.0)
        trained = [one for one in network.parameters() if one.requires_grad]
        assert all(one is other for one, other in zip(group["params"], trained, strict=True))

    def test_a_part_has_its_own_rate_and_the_others_keep_theirs(self) -> None:
        groups = by_name(adaptation("ma_sam"), TrainSection(lr=0.01, rates={"encoder": 0.1, "prompt_encoder": 2}))
        expected = {"encoder": 0.001, "prompt_encoder": 0.02, "decoder": 0.01}
        for name, group in groups.items():
            assert group["lr"] == pytest.approx(expected[name.partition(".")[0]]), name

    def test_with_layer_decay_each_block_is_slower_than_the_one_after_it(self) -> None:
        network = adaptation("full")
        groups = by_name(network, TrainSection(lr=1.0, layer_decay=0.5, rates={"image_encoder": 0.8}))
        blocks = len(network.image_encoder.blocks)  # type: ignore[union-attr]
        rates = [groups[f"image_encoder.blocks.{index}.attn.qkv.weight"]["lr"] for index in range(blocks)]
        assert all(after == pytest.approx(2 * before) for before, after in pairwise(rates))
        assert rates[-1] == pytest.approx(0.4)
        assert groups["image_encoder.neck.0.weight"]["lr"] == pytest.approx(0.8)
        for name in ("image_encoder.pos_embed", "image_encoder.patch_embed.proj.weight"):
            assert groups[name]["lr"] == pytest.approx(rates[0] / 2)
        assert {group["lr"] for name, group in groups.items() if name.startswith("decoder.")} == {1.0}

    def test_no_decay_spares_norms_biases_tokens_and_positions_and_nothing_else(self) -> None:
        groups = by_name(adaptation("full"), TrainSection(no_decay=True))
        decays = {name: group["weight_decay"] > 0 for name, group in groups.items()}
        for name in (
            "decoder.mask_tokens.weight",
            "decoder.iou_token.weight",
            "image_encoder.pos_embed",
            "image_encoder.blocks.0.attn.rel_pos_h",
            "image_encoder.blocks.0.norm1.weight",
            "image_encoder.blocks.0.mlp.lin1.bias",
        ):
            assert not decays[name], name
        for name in ("image_encoder.blocks.0.mlp.lin1.weight", "image_encoder.patch_embed.proj.weight"):
            assert decays[name], name
        assert all(group["weight_decay"] > 0 for group in by_name(adaptation("full"), TrainSection()).values())

    @pytest.mark.parametrize(
        ("name", "wrong", "said"),
        [
            ("ma_sam", {"rates": {"image_encoder": 0.1}}, "image_encoder, but this method trains only decoder, enc"),
            ("ma_sam", {"layer_decay": 0.9}, "train.layer_decay needs"),
            ("decoder_only", {"rates": {"encoder": 1.0}}, "trains only decoder"),
        ],
    )
    def test_a_part_that_is_not_trained_is_refused(self, name: str, wrong: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            optim.groups(adaptation(name), TrainSection(**wrong))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"rates": {"encode": 1.0}},
            {"rates": {"encoder": 0.0}},
            {"rates": {"encoder": float("nan")}},
            {"layer_decay": 1.0},
            {"optimiser": "adamax"},
            {"schedule": "linear"},
            {"momentum": 1.5},
            {"clip": 0.0},
            {"ema": 1.0},
            {"ema": 0.0},
            {"patience": 0},
            {"step_factor": 0.0},
            {"step_every": 0},
            {"loggers": ["comet"]},
        ],
        ids=str,
    )
    def test_values_that_make_no_sense_are_refused(self, wrong: dict[str, Any]) -> None:
        assert config.complaints(TrainSection, wrong)

    def test_the_refusal_comes_before_anything_is_written(self, phantom: Path, small: Settings, tmp_path: Path) -> None:
        settings = small | {"train": small["train"] | {"layer_decay": 0.9}}
        with pytest.raises(ConfigError, match="layer_decay"):
            start(phantom, tmp_path / "run", settings)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999)}),
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.999)}),
        ("sgd", torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    ],
)
def test_optimisers(name: Any, kind: type, said: dict[str, Any]) -> None:
    made = optim.optimiser(adaptation("decoder_only"), TrainSection(optimiser=name, momentum=0.8, lr=0.3))
    assert type(made) is kind
    assert said.items() <= made.param_groups[0].items()
    assert optim.common_rate(made) == pytest.approx(0.3)


class TestSchedules:
    def rates(self, steps: int = 40, **settings: Any) -> list[float]:
        train = TrainSection(warmup=8, epochs=10, **settings)
        return [optim.factor(step, steps, train) for step in range(steps)]

    def test_the_usual_one_is_that_of_ma_sam(self) -> None:
        assert self.rates() == [schedule.rate(step, 1.0, 8, 53, 7.0) for step in range(40)]

    @pytest.mark.parametrize("name", ["poly", "cosine", "constant", "step"])
    def test_all_share_the_warm_up(self, name: Any) -> None:
        assert self.rates(schedule=name)[:9] == [max(step, 1) / 8 for step in range(9)]

    def test_cosine_falls_to_nothing_slowly_at_both_ends(self) -> None:
        rates = self.rates(schedule="cosine")[9:]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] == 1.0
        assert 0 < rates[-1] < 0.02
        assert rates[len(rates) // 2] == pytest.approx(0.5, abs=0.06)
        falls = [before - after for before, after in pairwise(rates)]
        assert falls[0] < falls[len(falls) // 2] > falls[-1]

    def test_constant_stays(self) -> None:
        assert set(self.rates(schedule="constant")[8:]) == {1.0}

    def test_steps_come_after_whole_epochs(self) -> None:
        rates = self.rates(schedule="step", step_every=3, step_factor=0.1)
        assert rates[8:12] == [1.0] * 4
        assert rates[12:24] == [0.1] * 12
        assert rates[36] == pytest.approx(1e-3)


def hand_trained(job: Job) -> dict[str, torch.Tensor]:
    """The training of before, written out: AdamW on everything, one rate, and nothing else."""
    settings, segmenter = job.recipe.train, job.segmenter
    module, batches, _ = run.parts(job, *run.prepare(job))
    own = [one for one in segmenter.adaptation.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(own, lr=settings.lr, weight_decay=settings.weight_decay)
    warmup, total = min(settings.warmup, module.steps // 4), round(module.steps * settings.horizon)
    step = 0
    segmenter.train()
    for epoch in range(settings.epochs):
        batches.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in batches:
            optimiser.param_groups[0]["lr"] = schedule.rate(step, settings.lr, warmup, total, settings.power)
            logits = segmenter(batch.images)
            loss, _, _ = dice_ce(logits.flatten(0, 1), batch.target.flatten(0, 1), settings.dice_weight)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
    return segmenter.adaptation.state_dict()


def test_a_recipe_of_before_trains_to_the_weights_of_before(phantom: Path, small: Settings, tmp_path: Path) -> None:
    plain = small | {"train": small["train"] | {"ema": None}}
    expected = hand_trained(start(phantom, tmp_path / "hand", plain))
    run.train(phantom, tmp_path / "run", settings=plain)
    found = load_file(tmp_path / "run" / "last" / bundle.WEIGHTS)
    assert found
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


class TestAccumulation:
    """Mean over stacks: cross-entropy is one, the Dice term is not, because its sums run over the batch."""

    def settings(self, small: Settings, **train: Any) -> Settings:
        quiet = {"adapt": {"name": "decoder_only"}, "augment": {"preset": "none"}}
        one = {
            "epochs": 1,
            "stacks_per_epoch": 4,
            "lr": 1e-2,
            "optimiser": "sgd",
            "schedule": "constant",
            "warmup": 0,
            "ema": None,
        }
        return small | quiet | {"train": small["train"] | one | train}

    def weights(self, phantom: Path, folder: Path, settings: Settings) -> torch.Tensor:
        run.train(phantom, folder, settings=settings)
        tensors = load_file(folder / "last" / bundle.WEIGHTS)
        return torch.cat([tensors[name].flatten() for name in sorted(tensors)])

    @pytest.mark.parametrize(("dice_weight", "same"), [(0.0, True), (1.0, False)])
    def test_two_batches_of_one_are_one_of_two(
        self, phantom: Path, small: Settings, tmp_path: Path, dice_weight: float, same: bool
    ) -> None:
        split = self.settings(small, batch=1, accumulate=2, dice_weight=dice_weight)
        whole = self.settings(small, batch=2, accumulate=1, dice_weight=dice_weight)
        one, other = (
            self.weights(phantom, tmp_path / name, settings) for name, settings in (("a", split), ("b", whole))
        )
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7) is same

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_the_sum_of_the_gradients_is_clipped_once_for_each_step(
        self, phantom: Path, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
    ) -> None:
        norms = {}
        for clip in (None, 0.01):
            seen: list[float] = []

            def watched(self: torch.optim.SGD, closure: Any = None, seen: list[float] = seen) -> Any:
                loss = closure()
                gradients = [one.grad for group in self.param_groups for one in group["params"] if one.grad is not None]
                seen.append(torch.nn.utils.get_total_norm(gradients).item())
                return loss

            with monkeypatch.context() as patch:
                patch.setattr(torch.optim.SGD, "step", watched)
                settings = self.settings(small, batch=1, accumulate=2, clip=clip, precision=precision)
                run.train(phantom, tmp_path / f"{clip}", settings=settings)
            norms[clip] = seen
        assert len(norms[None]) == len(norms[0.01]) == 2
        assert all(norm > 0.02 for norm in norms[None])
        assert norms[0.01] == pytest.approx([0.01, 0.01], rel=1e-3)


def test_stacks_of_an_epoch_do_not_depend_on_the_size_of_the_batch(
    phantom: Path, small: Settings, tmp_path: Path
) -> None:
    orders = []
    for batch in (1, 2):
        job = start(phantom, tmp_path / f"{batch}", small | {"train": small["train"] | {"batch": batch}})
        _, batches, _ = run.parts(job, *run.prepare(job))
        assert isinstance(batches.dataset, Stacks)
        orders.append(
            [(case, first) for one in batches for case, first in zip(one.cases, one.first.tolist(), strict=True)]
        )
    assert orders[0] == orders[1]
