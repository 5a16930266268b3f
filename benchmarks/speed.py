"""Speed ratios of the inference path, as JSON: each is plain torch fp32 over the way we run.

    python benchmarks/speed.py [--threads 1]

Machines are noisy: both sides of a ratio are timed in turn in one process, and the best of a few
runs counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F

from tlt.model.network import TLT, TokenMap
from tlt.model.presets import PRESETS
from tlt.model.weights import inference_network
from tlt.track import has_fast_bf16

RUNS = 3
CROP = (40, 128, 128)
PAPER_IMAGE = (40, 200, 200)


def best_seconds(*calls: Callable[[], object]) -> list[float]:
    """The shortest time of each call, taken in turn so that noise hits all alike."""
    times = [[] for _ in calls]
    for _ in range(RUNS):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return [min(seconds) for seconds in times]


def encoder(network: TLT, image: torch.Tensor, bf16: bool = False) -> Callable[[], torch.Tensor]:
    """A call that computes features, under autocast where asked."""

    def call() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return network.encode(image)

    return call


def backbone_ratios() -> dict[str, float]:
    """What batch-norm folding, channels last and bf16 bring to the paper's backbone."""
    image = torch.rand(1, 1, *CROP) * 1400 - 1000
    last = image.contiguous(memory_format=torch.channels_last_3d)
    plain = TLT(PRESETS["paper"]).eval()
    channels = deepcopy(plain).to(memory_format=torch.channels_last_3d)
    ours = inference_network(deepcopy(plain), bf16=False)
    calls = {
        "plain": encoder(plain, image),
        "channels_last": encoder(channels, last),
        "folded_channels_last": encoder(ours, last),
    }
    if has_fast_bf16("cpu"):
        calls["folded_channels_last_bf16"] = encoder(ours, last, True)
    seconds = dict(zip(calls, best_seconds(*calls.values()), strict=True))
    return {name: round(seconds["plain"] / value, 2) for name, value in seconds.items()}


def template_crop_ratio() -> float:
    """Features on the template's receptive field against those of the whole template."""
    config = PRESETS["paper"]
    network = inference_network(TLT(config), bf16=False)
    side = 2 * config.halo + 1
    crop = torch.rand(1, 1, min(side, PAPER_IMAGE[0]), side, side)
    whole, part = best_seconds(
        encoder(network, torch.rand(1, 1, *PAPER_IMAGE)), encoder(network, crop)
    )
    return round(whole / part, 2)


def key_bias_ratio() -> float:
    """RAAM as one bias a key against the full L x N mask, in the template line's attention."""
    length, keys, heads, width = 300, 3125, 8, 24
    query = torch.rand(1, heads, length, width)
    key = torch.rand(1, heads, keys, width)
    row = torch.rand(1, 1, 1, keys)

    def attend(bias: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, key, attn_mask=bias)

    whole, ours = best_seconds(
        lambda: attend(row.expand(1, heads, length, keys).contiguous()), lambda: attend(row)
    )
    return round(whole / ours, 2)


def cache_ratio() -> float:
    """A lesion on a new pair against one more lesion on the same pair (compact)."""
    config = PRESETS["compact"]
    network = inference_network(TLT(config), bf16=False)
    image = torch.rand(1, 1, 104, 104, 104).contiguous(memory_format=torch.channels_last_3d)
    lesion, radius = torch.full((1, 3), 104.0), torch.tensor([10.0])

    def features() -> TokenMap:
        return TokenMap(network.encode(image)[0], torch.zeros(3), config.token_mm)

    known = features()
    first, more = best_seconds(
        lambda: network(features(), features(), lesion, radius),
        lambda: network(known, known, lesion, radius),
    )
    return round(first / more, 2)


def end_to_end_ratio() -> dict[str, float]:
    """Both images and one lesion with the published network: plain fp32 against our path."""
    config = PRESETS["published"]
    plain = TLT(config).eval()
    bf16 = has_fast_bf16("cpu")
    ours = inference_network(deepcopy(plain), bf16)
    search = torch.rand(1, 1, *PAPER_IMAGE) * 1400 - 1000
    side = 2 * config.halo + 1
    template = search[:, :, :, :side, :side]
    lesion, radius = torch.tensor([[24.0, 24.0, 16.0]]), torch.tensor([6.0])

    def run(network: TLT, template: torch.Tensor, bf16: bool) -> None:
        maps = []
        for image in (template, search):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                maps.append(network.encode(image)[0].float())
        network(*(TokenMap(m, torch.zeros(3), config.token_mm) for m in maps), lesion, radius)

    whole, quick = best_seconds(
        lambda: run(plain, search, False), lambda: run(ours, template, bf16)
    )
    return {
        "plain_seconds": round(whole, 2),
        "ours_seconds": round(quick, 2),
        "ratio": round(whole / quick, 2),
    }


@torch.inference_mode()
def main() -> None:
    """Measure everything and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    ratios = {
        "threads": threads,
        "fast_bf16": has_fast_bf16("cpu"),
        "backbone": backbone_ratios(),
        "template_crop": template_crop_ratio(),
        "raam_key_bias": key_bias_ratio(),
        "search_feature_cache": cache_ratio(),
        "end_to_end_published": end_to_end_ratio(),
    }
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
