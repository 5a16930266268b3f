"""Attention maps: distributions of the very pass that gives the answer, drawn where they lie."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import LESIONS, SHIFT_MM, ball_volume
from PIL import Image
from tiny import CENTERS, RADII, TINY, random_map, tiny_network

from tlt.attention_maps import as_volume, attention_maps, kept_attention
from tlt.cli.main import main
from tlt.io.images import save_volume
from tlt.io.lesions import write_lesions_csv
from tlt.model.weights import save_weights


@pytest.mark.parametrize("name", TINY)
def test_the_pass_that_keeps_its_maps_gives_the_same_answer(name: str) -> None:
    network = tiny_network(TINY[name])
    maps = random_map(TINY[name], 2), random_map(TINY[name], 3)
    with torch.no_grad():
        fast = network(*maps, CENTERS, RADII)
        with kept_attention(network) as kept:
            slow = network(*maps, CENTERS, RADII)
        again = network(*maps, CENTERS, RADII)
    assert torch.allclose(fast.center_mm, slow.center_mm, atol=1e-4)
    assert torch.allclose(fast.logits, slow.logits, atol=1e-5)
    assert torch.equal(fast.logits, again.logits)  # the fast path is back
    assert all(len(part) == 1 for part in kept.values())
    assert "transformer.layers.0.template_cross.attention" in kept
    assert all(torch.allclose(p[0].sum(-1), torch.tensor(1.0), atol=1e-5) for p in kept.values())


@pytest.mark.parametrize("name", TINY)
def test_maps_sum_to_one_and_belong_to_the_networks_answer(name: str) -> None:
    network = tiny_network(TINY[name])
    template, search = random_map(TINY[name], 2), random_map(TINY[name], 3)
    with torch.no_grad():
        predicted = network(template, search, CENTERS, RADII)
        chosen = network.select(template, CENTERS, RADII)
    for i, (center, radius) in enumerate(zip(CENTERS, RADII, strict=True)):
        found = attention_maps(network, template, search, center.tolist(), float(radius))
        assert found.layers.shape == (1, len(found.search_mm))
        for weights in (*found.layers, found.scores, found.template):
            assert weights.sum() == pytest.approx(1, abs=1e-5)
            assert np.all(weights >= 0)
        assert found.center_mm == pytest.approx(predicted.center_mm[i].numpy(), abs=1e-3)
        assert found.scores == pytest.approx(predicted.logits[i].softmax(-1).numpy(), abs=1e-5)
        assert len(found.template) == int(chosen.valid[i].sum())  # no padding among them
        assert found.bias is not None
        nearest = np.linalg.norm(found.search_mm - found.prior_mm, axis=1).argmin()
        assert found.bias.argmax() == nearest
        assert found.share_near(found.scores, found.center_mm, 1e4) == pytest.approx(1, abs=1e-5)


def test_raam_left_out_changes_the_maps_and_nothing_of_the_network() -> None:
    network = tiny_network(TINY["compact"])
    place = random_map(TINY["compact"], 2), random_map(TINY["compact"], 3), CENTERS[1].tolist(), 5.0
    on, off = attention_maps(network, *place), attention_maps(network, *place, raam=False)
    assert off.bias is None
    assert np.abs(on.layers - off.layers).max() > 1e-5
    assert network.config == TINY["compact"]
    # What the bias adds before the softmax multiplies after it.
    ratio = on.layers[0] / off.layers[0]
    assert np.corrcoef(np.log(ratio), on.bias)[0, 1] > 0.99


def test_a_map_lies_where_its_tokens_lie() -> None:
    positions = np.array([[8.0, 16.0, -8.0], [16.0, 16.0, -8.0], [16.0, 0.0, 0.0]])
    volume = as_volume(np.array([0.2, 0.5, 0.3]), positions, 8.0)
    assert volume.sample(positions) == pytest.approx([0.2, 0.5, 0.3], abs=1e-6)
    assert volume.voxels.sum() == pytest.approx(1)
    assert volume.sample([12.0, 16.0, -8.0]) == pytest.approx(0.35, abs=1e-6)


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """The command for a pair of phantoms and a tiny network."""
    save_volume(ball_volume(LESIONS), tmp_path / "a.nii.gz")
    save_volume(ball_volume(LESIONS, SHIFT_MM), tmp_path / "b.nii.gz")
    write_lesions_csv(LESIONS, tmp_path / "l.csv")
    save_weights(tiny_network(), tmp_path / "w.safetensors", {})
    places = {"baseline": "a.nii.gz", "followup": "b.nii.gz", "lesions": "l.csv"}
    words = ["experiment", "attention", "--model", str(tmp_path / "w.safetensors")]
    for name, file in places.items():
        words += [f"--{name}", str(tmp_path / file)]
    return [*words, "--output", str(tmp_path / "out")]


def test_the_command_draws_a_picture_a_lesion(asked: list[str], tmp_path: Path, capsys) -> None:
    name = LESIONS[0].id
    assert main([*asked, "--lesion", name]) == 0
    path = tmp_path / "out" / f"attention_{name}.png"
    assert capsys.readouterr().out.strip() == str(path)
    image = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")).astype(int)
    assert image.shape[0] > 800
    warm = (image[..., 0] > image[..., 2] + 60).sum()
    assert warm > 1000  # something is drawn over the gray images


def test_what_cannot_be_drawn_is_told(asked: list[str], tmp_path: Path, capsys) -> None:
    assert main([*asked, "--lesion", "nobody"]) == 2
    assert LESIONS[0].id in capsys.readouterr().err
    (tmp_path / "file").write_text("here already")
    assert main([*asked[:-1], str(tmp_path / "file"), "--model", "nope"]) == 3
    assert "file is no folder" in capsys.readouterr().err
    (tmp_path / "b.nii.gz").unlink()
    assert main(asked) == 3
    assert "b.nii.gz" in capsys.readouterr().err
