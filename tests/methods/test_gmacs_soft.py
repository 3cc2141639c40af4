"""GMACs and parameters of soft and learned methods, to ±0.002 of the published tables; on the meta device."""

from __future__ import annotations

import functools

import pytest
import torch
from conftest import counting

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.methods.sweep import parse
from tokenbench.model import Model

TABLE = {  # backbone: GMAC of each setting
    "deit_t": {
        "evovit": 0.818,
        "dtem[r=8]": 0.952,
        "dtem[r=13]": 0.753,
        "dtem[r=16]": 0.641,
        "sit": 0.797,
        "sinkhorn": 0.793,
        "patchmerger": 0.793,
    },
    "deit_s": {
        "tokenlearner[block=6]": 2.43,
        "tokenlearner[tokens=16]": 2.517,
        "tokenlearner[block=9]": 3.517,
        "tokenlearner[tokens=16,block=9]": 3.561,
        "tokenlearner[version=1.0]": 2.43,
        "tokenlearner[version=1.0,tokens=16]": 2.523,
        "tokenlearner[version=1.0,block=9]": 3.517,
        "tokenlearner[version=1.0,tokens=16,block=9]": 3.567,
        "gtp[p=3]": 4.182,
        "gtp": 3.452,
        "gtp[p=13]": 2.739,
        "evovit": 3.033,
        "evovit[keep_rate=0.7]": 3.642,
        "evovit[keep_rate=0.3]": 2.428,
        "cropr[r=8,fusion=false]": 3.508,
        "cropr[r=12,fusion=false]": 2.993,
        "cropr[r=16,fusion=false]": 2.49,
        "cropr": 3.687,
        "cropr[r=12]": 3.255,
        "cropr[r=16]": 2.832,
        "dtem[r=8]": 3.466,
        "dtem[r=13]": 2.743,
        "dtem[r=16]": 2.326,
        "sit[keep_rate=0.9]": 4.002,
        "sit": 2.936,
        "sit[keep_rate=0.5]": 2.187,
        "sit[keep_rate=0.25]": 1.580,
        "sinkhorn[keep_rate=0.9]": 3.979,
        "sinkhorn": 2.914,
        "sinkhorn[keep_rate=0.5]": 2.166,
        "sinkhorn[keep_rate=0.25]": 1.563,
        "patchmerger[keep_rate=0.9]": 3.979,
        "patchmerger": 2.914,
        "patchmerger[keep_rate=0.5]": 2.166,
        "patchmerger[keep_rate=0.25]": 1.563,
        "patchmerger[tokens=8,blocks=6]": 2.426,
        "patchmerger[tokens=16,blocks=6]": 2.513,
        "patchmerger[tokens=49,blocks=6]": 2.878,
    },
    "deit_b": {
        "gtp[p=3]": 15.929,
        "gtp": 13.159,
        "gtp[p=13]": 10.425,
        "evovit": 11.658,
        "dtem[r=8]": 13.199,
        "dtem[r=13]": 10.444,
        "dtem[r=16]": 8.839,
        "sit": 11.244,
        "sinkhorn": 11.136,
        "patchmerger": 11.136,
    },
}
PARAMETERS = {
    ("deit_s", "tokenlearner"): 22_050_664 + 25_928,
    ("deit_s", "tokenlearner[tokens=16]"): 22_050_664 + 26_448,
    ("deit_s", "tokenlearner[version=1.0]"): 22_050_664 + 30_144,
    ("deit_s", "tokenlearner[version=1.0,tokens=16]"): 22_050_664 + 62_976,
    ("deit_t", "evovit"): 5_717_416,
    ("deit_s", "evovit"): 22_050_664,
    ("deit_b", "evovit"): 86_567_656,
    ("deit_s", "cropr"): 22_050_664 + 10 * 384,
    ("deit_t", "dtem"): 5_717_416 + 148_224,
    ("deit_s", "dtem"): 22_050_664 + 295_680,
    ("deit_b", "dtem"): 86_567_656 + 590_592,
    ("deit_s", "sit"): 22_332_631,
    ("deit_s", "sinkhorn"): 22_165_864,
    ("deit_s", "patchmerger"): 22_168_168,
}


@functools.cache
def meta(name: str) -> Backbone:
    with torch.device("meta"):
        return backbones.create(name)


@pytest.mark.parametrize(("name", "setting"), [(name, setting) for name in TABLE for setting in TABLE[name]])
def test_gmacs(name: str, setting: str) -> None:
    with counting() as counter:
        Model(meta(name), parse(setting)[0]).eval().run(torch.empty(1, *meta(name).input_size))
    assert counter.get_total_flops() / 2e9 == pytest.approx(TABLE[name][setting], abs=0.002)


@pytest.mark.parametrize(("name", "setting"), PARAMETERS)
def test_parameters(name: str, setting: str) -> None:
    with torch.device("meta"):
        model = Model(meta(name), parse(setting)[0])
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name, setting]
