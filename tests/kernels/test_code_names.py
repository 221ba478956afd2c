"""Names of machine code: the same in every process, and no file where users' functions take part."""

import pytest
from support.processes import python

from fastmlp.kernels.jit import lazy, store
from fastmlp.kernels.jit.bind import Program
from fastmlp.kernels.jit.store import MachineCode
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline, fused, specialized


@pytest.fixture(autouse=True)
def cache(empty_cache):
    return empty_cache


NAMES = """
import sys
from fastmlp.backend import registry
from fastmlp.kernels.jit import bind, lazy
for name in sys.argv[1:] or registry.shipped():
    program = bind.Program(registry.shipped()[name])
    for template in bind.ENTRY_POINTS:
        print(program.source(template).name)
print(*sorted(lazy.makers), sep="\\n")
"""


@pytest.mark.slow  # three processes
def test_every_process_gives_the_same_names():
    """Sets have another order in each, objects other addresses."""
    first, second = (python("-c", NAMES, PYTHONHASHSEED=seed).stdout.splitlines() for seed in "12")
    assert first == second
    alone = python("-c", NAMES, "fused").stdout.splitlines()
    assert len(alone) > 50
    assert {*alone} <= {*first}
    assert not [name for name in first if store.UNKEPT in name]


def test_a_function_is_named_by_the_first_variant_with_the_same_functions_in_reach():
    Program(fused.VARIANT).link()
    for name in ("bias_gradient-kernels.variants.tiled", "penalties-kernels.variants.tiled"):
        assert name in lazy.makers
    assert "penalties-kernels.variants.fused" not in lazy.makers, "no slot of fused is in its reach"
    assert "operation_gradient-kernels.variants.fused" in lazy.makers, "the weight gradient is in its reach"
    names = [Program(one.VARIANT).source("predict").name for one in (fused, specialized)]
    assert names == ["predict-kernels.variants.fused"] * 2, "a variant without slots has its base's"


def own_bias_gradient(delta, out):
    out[:] = 0


def test_what_a_users_function_is_in_reach_of_is_marked():
    own = Variant("own", baseline.VARIANT, {"bias_gradient": own_bias_gradient})
    before = {*lazy.makers}
    source = Program(own).source("train_chunk")
    assert source.name == "train_chunk-own~"
    added = {name.partition("-")[0] for name in {*lazy.makers} - before if store.UNKEPT in name}
    assert {"bias_gradient", "operation_gradient", "form_gradient"} <= added
    assert not {"affine", "operation_forward"} & added


def test_a_variant_of_the_packages_functions_alone_is_not_taken_for_the_packages():
    other = Variant("fused", baseline.VARIANT, {"affine": fused.VARIANT.resolved()["affine"]})
    assert Program(other).source("predict").name == "predict-fused~"


CODE = MachineCode("f", b"code", ())


def test_marked_code_has_no_file(cache):
    store.save("affine-own~3", "key", CODE)
    assert not store.has("affine-own~3", "key")
    assert store.why_missing("affine-own~3", "key") == "code of users' functions stays in its process"
    store.save("affine-own", "key", CODE)
    assert store.load("affine-own", "key") == CODE


def test_code_of_other_sources_is_another_file(monkeypatch, cache):
    store.save("affine", "key", CODE)
    monkeypatch.setattr(store, "package_digest", lambda: "0" * 16)
    assert not store.has("affine", "key")


def test_sources_that_were_edited_after_they_were_loaded_keep_nothing(monkeypatch, cache):
    monkeypatch.setattr(store, "loaded_at", 0.0)
    store.package_digest.cache_clear()
    try:
        store.save("affine", "key", CODE)
        assert store.load("affine", "key") is None
        assert store.why_not_saved().startswith("the sources of fastmlp are no files, or have changed")
        assert not cache.exists()
    finally:
        monkeypatch.undo()
        store.package_digest.cache_clear()


def test_two_functions_of_a_name_are_refused():
    name = lazy.emitted("twice", lambda build, arguments, kinds, code: None)
    with pytest.raises(AssertionError, match=f"two lazy functions have the name {name}"):
        lazy.add_maker(name, lazy.makers[name])


OWN = """
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline

def bias_gradient(delta, out):
    out[:] = 0

VARIANT = Variant("own", baseline.VARIANT, {"bias_gradient": bias_gradient})
"""

FIT = """
import sys
import numpy as np, fastmlp
from fastmlp.backend import registry
from fastmlp.kernels.jit import engine
X = np.ones((4, 2))
fastmlp.fit(fastmlp.Network([2, 1]), X, X[:, :1], epochs=1, backend=registry.register_file(sys.argv[1]))
print(*(name.split()[0] for name in engine.compiled))
"""


@pytest.mark.slow  # two processes that compile
def test_a_second_process_compiles_what_the_users_function_is_in_reach_of_and_no_more(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    first, second = (python("-c", FIT, tmp_path / "own.py").stdout.split() for _ in range(2))
    assert {*second} < {*first}
    assert {name.partition("~")[1] for name in second} == {store.UNKEPT}
    assert "bias_gradient" in {name.partition("-")[0] for name in second}
