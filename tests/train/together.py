"""What two processes compute together, written down for ``test_distributed.py``; started by ``torchrun``.

Argument: the folder for the results, ``0.pt`` and ``1.pt``.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from voxelsam import adapt, backbones
from voxelsam.model import Segmenter
from voxelsam.train import distributed
from voxelsam.train.losses import dice_ce, object_dice_ce, quality_error
from voxelsam.train.strategy import shard_encoder

SHARES = {"uneven": ((0, 1), (1, 4)), "one ignored": ((0, 2), (2, 4)), "one empty": ((0, 4), (4, 4))}
"""Frames of each process."""


def example() -> dict[str, Tensor]:
    """A batch of four frames and four classes; the last two frames are ignored whole."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (4, 5, 6), generator=generator)
    target[2:] = 255
    target[0, 0] = 255
    return {
        "logits": torch.randn(4, 4, 5, 6, generator=generator),
        "target": target,
        "unlabelled": torch.tensor([[0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0]]).bool(),
        "truth": torch.rand(4, 5, 6, generator=generator) > 0.5,
        "said": torch.rand(4, generator=generator),
    }


def losses(part: dict[str, Tensor], factor: Tensor) -> dict[str, Tensor]:
    """Every loss of training on a part of the batch, as a function of one number."""
    logits = part["logits"] * factor
    masks = logits[:, 1] - logits[:, 0]
    return {
        "free": dice_ce(logits, part["target"], 0.7)[0],
        "partial": dice_ce(logits, part["target"], 0.7, unlabelled=part["unlabelled"])[0],
        "objects": object_dice_ce(masks, part["truth"], 0.7)[0],
        "quality": quality_error(part["said"] * factor, masks, part["truth"]),
    }


def gradients(part: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Loss, and its gradient by the number, which is averaged over the processes as their replicas are."""
    result = {}
    for name in ("free", "partial", "objects", "quality"):
        factor = torch.tensor(1.3, requires_grad=True)
        loss = losses(part, factor)[name]
        loss.backward()
        assert factor.grad is not None
        size = distributed.current().size
        result[name] = (loss.item(), distributed.total(factor.grad).item() / size)
    return result


def segmenter() -> Segmenter:
    backbone, _ = backbones.obtain("sam-tiny", None, (32, 32))
    torch.manual_seed(2)
    return Segmenter(backbone, adapt.build("ma_sam", {"rank": 4, "width": 16, "dropout": 0.0}, backbone, 3)).train()


def pictures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.rand(3, 3, 3, 32, 32, generator=generator),
        torch.randint(0, 3, (9, 32, 32), generator=generator),
    )


class Step(nn.Module):
    """Loss of a batch, so that replicas see one call."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        return dice_ce(self.network.decode(self.network.encode(images)).logits, target)[0]


def step(network: Segmenter, module: nn.Module, images: Tensor, target: Tensor) -> tuple[float, dict[str, Tensor]]:
    loss = module(images, target)
    loss.backward()
    own = network.adaptation.named_parameters()
    return loss.item(), {name: tensor.grad for name, tensor in own if tensor.grad is not None}


def trained(rank: int, *, shard: bool) -> dict[str, Any]:
    """One step of two replicas; the first has one stack and the second two."""
    network = segmenter()
    module = Step(network)
    if shard:
        shard_encoder(network.backbone.image_encoder)
        held = [name for name, _ in module.named_parameters() if ".backbone.image_encoder." in f".{name}"]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, held)
    images, target = pictures()
    own = slice(0, 1) if rank == 0 else slice(1, 3)
    replica = DistributedDataParallel(module, find_unused_parameters=True)
    loss, grads = step(network, replica, images[own], target.view(3, 3, 32, 32)[own].flatten(0, 1))
    blocks = network.backbone.image_encoder.blocks.parameters()
    here = sum(getattr(tensor, "to_local", lambda tensor=tensor: tensor)().numel() for tensor in blocks)
    return {"loss": loss, "grads": grads, "here": here}


def main(folder: Path) -> None:
    with distributed.group() as group:
        batch = example()
        found: dict[str, Any] = {"rank": group.rank, "machines": group.machines, "first": group.first}
        found["losses"] = {
            name: gradients({key: value[slice(*ends[group.rank])] for key, value in batch.items()})
            for name, ends in SHARES.items()
        }
        found["gathered"] = distributed.gathered({"from": group.rank})
        found["anywhere"] = distributed.anywhere(group.rank == 1), distributed.anywhere(False)
        found["whole"] = trained(group.rank, shard=False)
        found["sharded"] = trained(group.rank, shard=True)
        if group.first:
            (folder / "ready").write_text("yes")
            distributed.open_gate()
        distributed.wait_at_gate()
        found["through the gate"] = (folder / "ready").is_file()
        torch.save(found, folder / f"{group.rank}.pt")
        distributed.close_gate()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
