"""Every rival that is installed gives the right answers, and says what it cannot do; those that are not are listed."""

from __future__ import annotations

import pytest

from fastconv.bench.cases import OPERATIONS, exact, relative_error, rows, tolerance
from fastconv.bench.contenders import OURS, Contender, Terms, Unsupported
from fastconv.bench.peers import PEERS

# One of each kind: strided, dilated, grouped, depthwise, padded, 1-D and 2-D, one channel, long.
SOME = [
    *("resnet_stem", "deeplab_d2", "inception_1x7", "seed_conv2", "dw_56_144_s2", "resnext_56", "wavenet_d64"),
    *("mnist1d_l1", "mamba_dw4", "fir_4095", "stereo_1024", "hyena_long", "wav2vec_l0", "exercise_1d", "tiny_2d"),
]


def test_names_are_unique_and_terms_are_stated():
    everybody = (*OURS, *PEERS)
    assert len({contender.name for contender in everybody}) == len(everybody)
    for contender in everybody:
        assert contender.about
        assert all(contender.terms), contender.name


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("contender", [*OURS, *PEERS], ids=lambda contender: contender.name)
def test_answers(contender, name):
    missing = contender.unavailable()
    if missing:
        pytest.skip(f"{contender.name}: {missing}")
    row = rows()[name].small()
    data = row.arrays()
    refused = []
    for operation in OPERATIONS:
        contender.activate(1)
        try:
            prepared = contender.prepare(row, operation, data, 1)
        except Unsupported as reason:
            refused.append(str(reason))
            continue
        for _ in range(2):  # what a first call leaves behind must not spoil a second one
            result = prepared.result(prepared.run())
        assert relative_error(result, exact(row, operation, data)) <= tolerance(row, operation), operation
    assert all(refused)
    assert len(refused) == 0 or not contender.ours


def test_a_missing_rival_says_what_is_missing():
    contender = Contender("x", "x", Terms("", "", ""), PEERS[0].prepare, modules=("no_such_module", "math"))
    assert contender.unavailable() == "not installed: no module no_such_module"
    nested = Contender("x", "x", Terms("", "", ""), PEERS[0].prepare, modules=("no_such_package.module",))
    assert nested.unavailable() == "not installed: no module no_such_package.module"
