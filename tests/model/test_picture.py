"""Pictures of networks: what they say, and what they cannot be."""

import re

import matplotlib
import pytest
from support.missing_packages import without

import fastmlp
from fastmlp import Categories, Concatenate, Dense, Dropout, LayerNorm, Network, Numbers, Periodic, Residual
from fastmlp.model.picture import lanes_of

LAYERS = [
    *(LayerNorm(), Dense(256, "silu"), Dropout(0.1), Residual(Dense(64, "mish"), Dense(256))),
    *(Dense(64, name="low"), fastmlp.BatchNorm(), Concatenate("low"), Dense(3)),
]
NETWORK = Network(inputs=12, layers=LAYERS, output="softmax", loss="cross_entropy")


def texts_of(network, path):
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        network.plot(path)
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_a_picture_has_every_layer_with_its_shape(tmp_path):
    texts = texts_of(NETWORK, tmp_path / "net.svg")
    assert {"inputs", "layer_norm1", "dense1", "add1", "low", "batch_norm1", "concatenate1"} <= {*texts}
    assert {"Dense, silu, dropout 0.1", "Residual", "Dense, softmax", "cross_entropy"} <= {*texts}
    assert {"12", "256", "128", "3", "3,328", f"{NETWORK.operations[-1].end:,}"} <= {*texts}
    assert "copy1" not in texts  # of the inputs, which the picture has once
    assert {"Dense, relu", "Dense"} <= {*texts_of(Network([64, 128, 10]), tmp_path / "chain.svg")}
    blocks = Network(inputs=[Numbers(3, Periodic(4)), Categories((5, 9))], layers=[Dense(2)])
    assert {"inputs", "5", "Periodic", "Categories"} <= {*texts_of(blocks, tmp_path / "blocks.svg")}


def test_lines_next_to_the_layers_do_not_cross_in_one_lane():
    assert lanes_of([(0, 2), (2, 4), (1, 3), (0, 9)]) == [0, 0, 1, 2]


def test_what_no_picture_can_be_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"[Ff]ormat 'doc' is not supported") as caught:
        NETWORK.plot(tmp_path / "net.doc")
    assert "\n" not in str(caught.value)
    without(monkeypatch, "matplotlib")
    with pytest.raises(ImportError, match=r'Network.plot needs matplotlib: pip install "fastmlp\[plot\]", '):
        NETWORK.plot(tmp_path / "net.png")
