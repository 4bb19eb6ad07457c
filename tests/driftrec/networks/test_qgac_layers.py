"""QGAC's layers against naive ones, JPEG's transform against SciPy's."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from driftrec.networks import block_dct
from driftrec.networks.qgac import (
    QGAC,
    RRDB,
    ByFrequency,
    ByPlace,
    ColourNet,
    Conv,
    DenseBlock,
    FrequencyConv,
    QGACConfig,
    TableConv,
)
from tests.driftrec.networks.naive import convolve, convolve_up, drawn, prelu, weights

SMALL = QGACConfig(manifold=3, width=4, features=2, frequency=2, chroma=2)


def test_the_transform_is_that_of_jpeg() -> None:
    samples = torch.randn(2, 1, 16, 24, dtype=torch.float64)
    found = block_dct.to_coefficients(samples)
    for i in range(2):
        for top in (0, 8):
            for left in (0, 8, 16):
                part = np.s_[i, 0, top : top + 8, left : left + 8]
                np.testing.assert_allclose(found[part], dctn(samples[part].numpy(), norm="ortho"), atol=1e-12)
    torch.testing.assert_close(block_dct.to_samples(found), samples)
    twice = samples.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(block_dct.doubled(found), block_dct.to_coefficients(twice))


def test_frequencies_are_groups_in_row_order() -> None:
    x = torch.randn(2, 3, 16, 24)
    by_frequency = ByFrequency()(x)
    assert by_frequency.shape == (2, 64 * 3, 2, 3)
    for frequency in (0, 1, 8, 63):
        row, column = divmod(frequency, 8)
        torch.testing.assert_close(by_frequency[:, 3 * frequency :][:, :3], x[:, :, row::8, column::8])
    assert torch.equal(ByPlace()(by_frequency), x)


@pytest.mark.parametrize("up", [False, True])
@torch.inference_mode()
def test_a_convolution_that_is_made_from_a_table(up: bool) -> None:
    layer = drawn(TableConv(SMALL, 2, 3, up))
    x, tables = torch.randn(2, 2, *((2, 3) if up else (16, 24))), torch.rand(2, 1, 8, 8)
    found, w = layer(x, tables), weights(layer)
    for image, table, got in zip(x.double().numpy(), tables.double().numpy(), found.numpy(), strict=True):
        m = prelu(convolve(table, w["manifold.0.weight"], w["manifold.0.bias"], padding=0), w["manifold.1.weight"])
        m = prelu(convolve(m, w["manifold.2.weight"], w["manifold.2.bias"], padding=0), w["manifold.3.weight"])
        kernel = convolve_up(m, w["weight_transform.weight"], w["weight_transform.bias"], stride=1)
        bias = convolve(m, w["bias_transfrom.weight"], w["bias_transfrom.bias"], padding=0)[:, 0, 0]
        if up:
            made = convolve_up(image, kernel.reshape(2, 3, 8, 8), bias, stride=8)
        else:
            made = convolve(image, kernel.reshape(3, 2, 8, 8), bias, stride=8, padding=0)
        np.testing.assert_allclose(got, prelu(made, w["post_activation.weight"]), rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def test_dense_block_and_rrdb() -> None:
    dense = drawn(DenseBlock(2, Conv))
    x = torch.randn(1, 2, 4, 5)
    w, image = weights(dense), x[0].double().numpy()
    parts = [image]
    for k in range(1, 6):
        made = convolve(np.concatenate(parts), w[f"conv{k}.weight"], w[f"conv{k}.bias"])
        parts.append(prelu(made, w[f"relu{k}.weight"]))
    np.testing.assert_allclose(dense(x)[0].numpy(), image + 0.2 * parts[-1], rtol=1e-4, atol=1e-4)
    rrdb = drawn(RRDB(2))
    inner = rrdb.block3(rrdb.block2(rrdb.block1(x)))
    torch.testing.assert_close(rrdb(x), x + 0.2 * inner)


@torch.inference_mode()
def test_no_frequency_sees_another() -> None:
    layer = drawn(FrequencyConv(3, 2))
    one, two = torch.randn(1, 64 * 2, 3, 4), torch.randn(1, 64, 3, 4)
    found, w = layer(one, two)[0].numpy(), weights(layer)
    for f in (0, 5, 63):
        seen = torch.cat([one[0, 2 * f : 2 * f + 2], two[0, f : f + 1]]).double().numpy()
        made = convolve(seen, w["filter.weight"][2 * f : 2 * f + 2], w["filter.bias"][2 * f : 2 * f + 2])
        np.testing.assert_allclose(found[2 * f : 2 * f + 2], made, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_chroma_sees_luma_and_both_tables() -> None:
    net = drawn(ColourNet(SMALL))
    c, luma, table, luma_table = (
        torch.randn(1, 1, 16, 24),
        torch.randn(1, 1, 32, 48),
        torch.rand(1, 1, 8, 8),
        torch.rand(1, 1, 8, 8),
    )
    w = weights(net)
    half = net.block_enhancer(net.block_c(c, table))
    image = half[0].double().numpy()
    full = convolve_up(image, w["block_doubler.0.weight"], w["block_doubler.0.bias"], stride=2, padding=1)
    full = torch.from_numpy(prelu(full, w["block_doubler.1.weight"])).float()[None]
    assert full.shape == (1, 2, 4, 6)
    both = torch.cat([full, net.block_y(luma, luma_table)], dim=1)
    made = net.unblock(net.block_enhancer2(both), table)
    torch.testing.assert_close(net(c, luma, table, luma_table), made, rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def test_luma_is_the_sum_of_its_parts_and_of_no_other_image() -> None:
    net = drawn(QGAC(SMALL))
    y, tables = torch.randn(3, 1, 24, 16), torch.rand(3, 1, 8, 8)
    encoded = net.blocks_encode(y, tables)
    filtered = net.frequencynet(encoded)
    decoded = net.blocks_decode(filtered, tables)
    assert encoded.shape == filtered.shape == decoded.shape == (3, 2, 24, 16)
    together = net.luma(y, tables)
    torch.testing.assert_close(together, y + net.fusion(torch.cat([decoded, filtered, encoded], dim=1)))
    for i in range(3):
        alone = net.luma(y[i : i + 1], tables[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net.luma(y, tables.flip(0)), together)
