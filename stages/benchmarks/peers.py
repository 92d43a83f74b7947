"""The same step as other libraries take it, at equal input, width, depth and batch.

Each is built from the description of our net, as far as its own arguments go; FLOPs are counted, so what could not be
matched shows. A step is what its own trainer does: noise, one call of the net, the mean square of eps less estimate,
backward pass, clipping, AdamW as torch has it by default, its own average of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.benchmarks.subjects import Subject, Work, batch_of, named
from stages.compilers import Asked
from stages.net_specs import ADMSpec, AttentiveSpec, UNetSpec

Call = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(images (B, C, H, W), step index (B,), labels (B,)) -> estimate of the noise (B, 3, H, W)."""

Average = Callable[[], Any]
STEPS = 1000  # of the schedule that peers are told of


class NoSuchPeer(ValueError):  # noqa: N818 - it states what is the matter
    """A peer that is not known, not installed, or has no net like the one asked for; the message says which."""


def diffusers(work: Work, net: AttentiveSpec) -> tuple[nn.Module, Call, Average]:
    """``diffusers.UNet2DModel``, as its own training script for unconditional images wires it."""
    from diffusers import UNet2DModel
    from diffusers.training_utils import EMAModel

    widths = net.widths
    attended = [level in net.attention_levels(work.size) for level in range(len(widths))]
    down = ["AttnDownBlock2D" if one else "DownBlock2D" for one in attended]
    up = ["AttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attended)]
    resampling = net.resampling if isinstance(net, ADMSpec) else "conv"
    built: Any = UNet2DModel(
        sample_size=work.size,
        in_channels=work.channels_in,
        out_channels=3,
        layers_per_block=_same(net.blocks_per_level, "diffusers"),
        block_out_channels=widths,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        downsample_type="resnet" if resampling == "block" else "conv",
        upsample_type="resnet" if resampling == "block" else "conv",
        dropout=net.dropout,
        attention_head_dim=_head_width(net),
        norm_num_groups=math.gcd(32, *widths),
        resnet_time_scale_shift="scale_shift",
        add_attention=attended[-1] or isinstance(net, ADMSpec),
        num_class_embeds=work.classes + 1,
    )
    built.to(work.device)
    average = EMAModel(built.parameters(), decay=0.999)

    def call(images: Tensor, step: Tensor, labels: Tensor) -> Tensor:
        return built(images, step, class_labels=labels).sample

    return built, call, lambda: average.step(built.parameters())


def imagen_pytorch(work: Work, net: AttentiveSpec) -> tuple[nn.Module, Call, Average]:
    """``imagen_pytorch.Unet`` without what the other nets lack: text, cross-embedding convolutions, global context.

    It takes no labels. When it is imported it asks a hub for the width of a text encoder, which nothing here uses.
    """
    import transformers

    width = mock.Mock(d_model=768)
    with mock.patch.object(transformers.T5Config, "from_pretrained", return_value=width):
        from imagen_pytorch import Unet
    from ema_pytorch import EMA

    attended = [level in net.attention_levels(work.size) for level in range(len(net.multipliers))]
    head_width = _head_width(net)
    lowres = work.channels_in > 3
    built = Unet(
        dim=net.channels,
        dim_mults=net.multipliers,
        num_resnet_blocks=_same(net.blocks_per_level, "imagen-pytorch"),
        layer_attns=tuple(attended),
        attn_dim_head=head_width,
        attn_heads=max(2, net.widths[-1] // head_width),
        lowres_cond=lowres,
        cond_on_text=False,
        layer_cross_attns=False,
        init_cross_embed=False,
        use_global_context_attn=False,
        dropout=net.dropout,
    ).to(work.device)

    def call(images: Tensor, step: Tensor, labels: Tensor) -> Tensor:
        time = step.float() / STEPS
        if not lowres:
            return built(images, time)
        return built(images[:, :3], time, lowres_cond_img=images[:, 3:], lowres_noise_times=time)

    return built, call, EMA(built, beta=0.999, update_every=1, update_after_step=0).update


def denoising_diffusion_pytorch(work: Work, net: AttentiveSpec) -> tuple[nn.Module, Call, Average]:
    """``denoising_diffusion_pytorch.Unet``: two blocks on each level, no labels, linear attention elsewhere."""
    from denoising_diffusion_pytorch import Unet
    from ema_pytorch import EMA

    if _same(net.blocks_per_level, "denoising-diffusion-pytorch") != 2:
        raise NoSuchPeer("denoising-diffusion-pytorch has two blocks on every level, no other number")
    head_width = _head_width(net)
    built = Unet(
        dim=net.channels,
        dim_mults=net.multipliers,
        channels=work.channels_in,
        out_dim=3,
        attn_dim_head=head_width,
        attn_heads=max(1, net.widths[-1] // head_width),
        full_attn=tuple(level in net.attention_levels(work.size) for level in range(len(net.multipliers))),
        flash_attn=True,
        dropout=net.dropout,
    ).to(work.device)

    def call(images: Tensor, step: Tensor, labels: Tensor) -> Tensor:
        return built(images, step)

    return built, call, EMA(built, beta=0.999, update_every=1, update_after_step=0).update


PEERS: Mapping[str, Callable[[Work, AttentiveSpec], tuple[nn.Module, Call, Average]]] = {
    "diffusers": diffusers,
    "imagen-pytorch": imagen_pytorch,
    "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
}


def peer(name: str, work: Work, net: Any, precision: str, *, compiled: Asked = False) -> Subject:
    """The step of the library ``name`` on ``work``. Raises NoSuchPeer, whose message a person can act on."""
    if name not in PEERS:
        raise NoSuchPeer(f"--against {name}: known are {', '.join(PEERS)}")
    if not isinstance(net, UNetSpec | ADMSpec) or net.patch != 1:
        raise NoSuchPeer(f"--against {name}: it has no net like a {net.kind} with a patch of {net.patch}")
    try:
        built, call, average = PEERS[name](work, net)
    except ImportError as error:
        raise NoSuchPeer(f"--against {name}: {error}; install it with: pip install {name}") from error
    return _subject(f"{name} {precision}{named(compiled)}", work, built, call, average, precision, compiled)


def _subject(
    name: str, work: Work, net: nn.Module, call: Call, average: Average, precision: str, compiled: Asked
) -> Subject:
    batch = batch_of(work)
    images = batch.images.repeat(1, 2, 1, 1)[:, : work.channels_in]
    steps = torch.full((work.batch,), STEPS // 2, device=work.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    options: dict[str, Any] = {"mode": "reduce-overhead"} if compiled == "graphs" else {}
    run = torch.compile(call, **options) if compiled else call
    bf16 = torch.autocast(work.device.type, torch.bfloat16, enabled=precision == "bf16")

    def train() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        eps = torch.randn_like(batch.images)
        noisy = torch.cat([math.sqrt(0.5) * (images[:, :3] + eps), images[:, 3:]], dim=1)
        with bf16:
            loss = F.mse_loss(run(noisy, steps, batch.labels).float(), eps)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average()
        return loss.detach()

    @torch.inference_mode()
    def sample() -> Tensor:
        with bf16:
            return run(images, steps, batch.labels)

    return Subject(name, precision, net, train, sample)


def _same(blocks: tuple[int, ...], name: str) -> int:
    if len(set(blocks)) != 1:
        raise NoSuchPeer(f"{name} has as many blocks on every level, not {list(blocks)}")
    return blocks[0]


def _head_width(net: AttentiveSpec) -> int:
    assert isinstance(net, UNetSpec | ADMSpec)
    if isinstance(net, ADMSpec) and net.heads is not None:
        return net.widths[-1] // net.heads
    assert net.head_width is not None
    return net.head_width
