"""How Lightning trains over processes: replicas of what is trained, and, where wanted, one sharded backbone."""

from typing import Any

import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from voxelsam.errors import ConfigError
from voxelsam.model import Segmenter
from voxelsam.nn.vit import SamEncoder
from voxelsam.train import distributed


def options(segmenter: Segmenter, device: torch.device, *, shard: bool) -> dict[str, Any]:
    """The arguments of Lightning's trainer that say where it runs.

    Args:
        segmenter: what is trained.
        device: of the recipe.
        shard: whether each process keeps a part of the frozen encoder only.

    Raises:
        ConfigError: there are not enough devices, or there is nothing to shard.
    """
    group = distributed.current()
    accelerator = "gpu" if device.type == "cuda" else device.type
    if group.size == 1:
        return {"accelerator": accelerator, "devices": 1 if device.index is None else [device.index]}
    if device.type == "mps" or ":" in str(device):
        raise ConfigError(f"{group.size} processes train on cpu or cuda, each on its own device, not on {device}")
    if device.type == "cuda" and torch.cuda.device_count() < group.here:
        raise ConfigError(f"{group.here} processes need as many GPUs, but this machine has {torch.cuda.device_count()}")
    if shard and segmenter.adaptation.image_encoder is not None:
        raise ConfigError("train.shard divides a frozen image encoder, but this method trains its own: leave it out")
    return {
        "accelerator": accelerator,
        "devices": group.here,
        "num_nodes": group.machines,
        "strategy": Replicas(segmenter, shard=shard),
        "use_distributed_sampler": False,  # our own order gives each process its share
    }


def shard_encoder(encoder: SamEncoder) -> None:
    """Leaves each process a part of a frozen encoder; a block is whole only while it computes.

    Args:
        encoder: in the same state in every process, on the device where it computes.
    """
    mesh = init_device_mesh(encoder.pos_embed.device.type, (distributed.current().size,))
    for block in encoder.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(encoder, mesh=mesh)


class Replicas(DDPStrategy):
    """Data-parallel training of the adaptation, beside a frozen encoder that is whole in every process, or sharded.

    Parameters that a step does not use are allowed: which ones are used depends on what a step asks.

    Args:
        segmenter: what is trained.
        shard: whether its frozen encoder is sharded.
    """

    def __init__(self, segmenter: Segmenter, *, shard: bool) -> None:
        super().__init__(
            cluster_environment=TorchElasticEnvironment(),
            find_unused_parameters=True,
            timeout=distributed.PATIENCE,
        )
        self.segmenter = segmenter
        self.shard = shard

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        if self.shard:
            encoder = self.segmenter.backbone.image_encoder
            shard_encoder(encoder)
            held = {id(tensor) for tensor in (*encoder.parameters(), *encoder.buffers())}
            names = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if id(tensor) in held]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)  # type: ignore[no-untyped-call]
        return super()._setup_model(model)
