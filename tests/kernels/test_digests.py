"""Digests and names of machine code are the same in every process, and different for what differs."""

from __future__ import annotations

import numba
import pytest
from support.processes import python

from fastmlp.backend import registry
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.jit import sources, store
from fastmlp.kernels.jit.bind import Program
from fastmlp.kernels.jit.sources import Identity
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline


def test_sources_of_ours_that_were_edited_after_they_were_loaded_are_noticed(monkeypatch):
    monkeypatch.setattr(store, "loaded_at", 0.0)
    store.package_digest.cache_clear()
    try:
        assert "have changed since they were loaded" in Identity(baseline.affine).unknown
    finally:
        monkeypatch.undo()
        store.package_digest.cache_clear()
    assert Identity(baseline.affine).unknown is None


def test_other_processes_find_the_machine_code_of_each_of_our_variants():
    """Slots of bfloat16 are made by one function for two kinds of instructions, which it closes over."""
    ours = [one for one in registry.shipped().values() if isinstance(one, Variant)]
    sources = {one.name: Program(one).source("train_chunk") for one in ours}
    assert {name: source.identity.unknown for name, source in sources.items()} == dict.fromkeys(sources)
    assert sources["bfloat16_amx"].name != sources["bfloat16_avx512"].name


OVERLOADED = """
import numba
from numba.extending import overload
from fastmlp.kernels.jit.sources import Identity

def f(): pass
def helper(): return NUMBER
@overload(f)
def of_f(): return helper
@numba.njit
def calls(): return f()
identity = Identity(calls)
assert identity.unknown is None, identity.unknown
print(identity.digest)
"""


def test_options_to_compile_a_function_stand_in_the_digest(tmp_path):
    def said(name, number):
        path = tmp_path / name
        path.write_text(OVERLOADED.replace("NUMBER", number))
        return python(path).stdout

    assert said("a.py", "1") == said("b.py", "1") != said("a.py", "2")


@numba.njit
def even(n):
    return n == 0 or odd(n - 1)


@numba.njit
def odd(n):
    return n != 0 and even(n - 1)


def test_functions_that_call_one_another_have_digests():
    identities = Identity(even), Identity(odd)
    assert [one.unknown for one in identities] == [None, None]
    assert identities[0].digest != identities[1].digest


DIGESTS = """
from fastmlp.kernels.jit.sources import Identity
made, init = [], Identity.__init__
Identity.__init__ = lambda self, *parts: (init(self, *parts), made.append(self))[0]

from fastmlp.backend import registry
from fastmlp.kernels.jit import bind, lazy
for variant in registry.variants().values():
    program = bind.Program(variant)
    for name in bind.ENTRY_POINTS:
        print(program.source(name).name)
print(*sorted(lazy.makers), sep="\\n")
assert len(made) > 50
for identity in made:
    assert identity.is_current(), identity.unknown
"""


def test_every_process_gives_the_same_names_and_knows_all_that_we_compile():
    """Sets have another order in each, objects other addresses."""
    (names,) = {python("-c", DIGESTS, PYTHONHASHSEED=seed).stdout for seed in ("1", "2")}
    assert len(names.splitlines()) > 50


def test_a_formula_in_a_closure_is_never_taken_for_another():
    def formula(scale):
        def twice(z):
            return scale * z

        return jittable(twice)

    assert Identity(formula(1.0)).digest != Identity(formula(2.0)).digest


@pytest.mark.parametrize("name", ["_math", "_numba", "__numpy", "_kinds", "numbers_of_mine"])
def test_a_user_s_module_is_none_of_python_s_own(name):
    assert not sources.is_computing(name)
    assert sources.is_computing("_operator.add")
