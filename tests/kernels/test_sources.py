"""Names of machine code: the same in every process, and others after an edit; or each process compiles."""

import importlib
import sys

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


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Import modules from files of these texts, {name: text}, in this order; return the last."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written = []

    def make(**texts):
        for name, text in texts.items():
            written.append(name)
            sys.modules.pop(name, None)
            (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return [importlib.import_module(name) for name in texts][-1]

    yield make
    for name in written:
        sys.modules.pop(name, None)


SLOT = """
import enum, functools, math
from dataclasses import dataclass
from typing import NamedTuple
import numba, numpy as np
from numba.extending import intrinsic, overload
from numba import types
import helper
def slot(out):
    out[0] = USE
"""

TWO_OF_A_NAME = """
def made(number):
    def f(x): return x
    g = f
    def f(x): return -x
    return (g, f)[number]
"""

REACHED = {
    # what the slot's module defines beside it, what the slot uses, what its helper says: first, then edited
    "a module's attribute": ("", "helper.SCALE", "SCALE = 1.0", "SCALE = 2.0"),
    "a module's function": ("", "helper.f(1.0)", "def f(x): return x", "def f(x): return x + 1"),
    "a constant in a function of it": ("", "helper.f(1)", "def f(x): return 2 * x", "def f(x): return 3 * x"),
    "a jitted function of it": (
        "", "helper.f(1.0)", "import numba\nSCALE = 1.0\n@numba.njit\ndef f(x): return SCALE * x",
        "import numba\nSCALE = 2.0\n@numba.njit\ndef f(x): return SCALE * x",
    ),
    "options of a jitted function": (
        "", "helper.f(1.0)", "import numba\n@numba.njit\ndef f(x): return x",
        "import numba\n@numba.njit(fastmath={'nsz'})\ndef f(x): return x",
    ),
    "through another jitted function": (
        "@numba.njit\ndef through(x): return helper.f(x)", "through(1.0)", "def f(x): return x",
        "def f(x): return -x",
    ),
    "a name that a function calls": (
        "", "helper.f(1.0)", "import math\ndef f(x): return math.sin(x)",
        "import math\ndef f(x): return math.cos(x)",
    ),
    "a constant in a container": ("TABLE = (1, (helper.A, 2))", "TABLE[1][0]", "A = 1.5", "A = 2.5"),
    "a dictionary": ("TABLE = {'a': [helper.A]}", "TABLE['a']", "A = 1.5", "A = 2.5"),
    "an array": ("TABLE = np.array([1, helper.A])", "TABLE[1]", "A = 1.5", "A = 2.5"),
    "an array's dtype": ("TABLE = np.array([1], helper.A)", "TABLE[0]", "A = 'i4'", "A = 'u4'"),
    "modules that import one another": (
        "helper.helper = helper", "helper.helper.helper.A", "A = 1.5", "A = 2.5",
    ),
    "a default": ("def f(x, a=helper.A): return a", "f(1)", "A = 1.5", "A = 2.5"),
    "a closure": (
        "def make(a):\n    def f(x): return a\n    return f\nf = make(helper.A)", "f(1)", "A = 1.5",
        "A = 2.5",
    ),
    "a closed-over module": (
        "def make(m):\n    def f(x): return m.A\n    return f\nf = make(helper)", "f(1)", "A = 1.5",
        "A = 2.5",
    ),
    "a class attribute": ("class K(helper.Base): pass", "K.A", "class Base: A = 1", "class Base: A = 2"),
    "a method": (
        "class K(helper.Base): pass", "K", "class Base:\n    def f(self): return 1",
        "class Base:\n    def f(self): return 2",
    ),
    "a member of an enum": (
        "K = helper.K", "K.A.value", "import enum\nclass K(enum.IntEnum): A = 1",
        "import enum\nclass K(enum.IntEnum): A = 2",
    ),
    "a field of a tuple": ("class P(NamedTuple):\n    a: int\nP0 = P(helper.A)", "P0.a", "A = 1", "A = 2"),
    "an instance": (
        "@dataclass(frozen=True)\nclass P:\n    a: int\nP0 = P(helper.A)", "P0.a", "A = 1", "A = 2",
    ),
    "slots of an instance": (
        "class P:\n    __slots__ = ('a',)\nP0 = P()\nP0.a = helper.A", "P0.a", "A = 1", "A = 2",
    ),
    "a bound method": (
        "class P:\n    def f(self): return self.a\nP0 = P()\nP0.a = helper.A\nf = P0.f", "f()", "A = 1",
        "A = 2",
    ),
    "partial": ("f = functools.partial(max, helper.A)", "f(0)", "A = 1", "A = 2"),
    "what writes an intrinsic": (
        "@intrinsic\ndef f(ctx):\n    return types.int64(), lambda c, b, s, v: helper.emit(c)", "f()",
        "from llvmlite import ir\ndef emit(c): return ir.Constant(ir.IntType(64), 1)",
        "from llvmlite import ir\ndef emit(c): return ir.Constant(ir.IntType(64), 2)",
    ),
    "a function within a function": (
        "", "helper.f(1.0)", "def f(x):\n    g = lambda y: [y + 1 for _ in b'']\n    return g(x)",
        "def f(x):\n    g = lambda y: [y + 2 for _ in b'']\n    return g(x)",
    ),
    "a module imported by a function": (
        "def f():\n    import helper\n    return helper.A", "f()", "A = 1", "A = 2",
    ),
    "a string in a list": (
        "", "helper.f()", "def f(): return ['a' for i in b'']", "def f(): return ['b' for i in b'']",
    ),
    "equal numbers": ("", "helper.A", "A = 0.0", "A = -0.0"),
    "numbers of another kind": ("", "helper.A", "A = 1", "A = True"),
    "one of two functions of a name": (TWO_OF_A_NAME + "f = made(helper.A)", "f(1)", "A = 0", "A = 1"),
}  # fmt: skip


EACH_TIME = {
    *("a dictionary", "a class attribute", "a method", "a member of an enum", "a field of a tuple"),
    *("an instance", "slots of an instance", "a bound method", "partial", "a module imported by a function"),
}
"""The part of REACHED that no text identifies: it is compiled in each process."""


@pytest.mark.parametrize("what", REACHED)
def test_what_a_slot_reaches_stands_in_its_name(module, what):
    defined, used, before, after = REACHED[what]
    text = SLOT.replace("USE", used) + defined
    first, again, edited = (Identity(module(helper=h, slots=text).slot) for h in (before, before, after))
    kept = what not in EACH_TIME
    assert [one.unknown is None for one in (first, again, edited)] == [kept] * 3
    assert edited.is_current() == kept
    assert (first.digest == again.digest) == kept
    assert first.digest != edited.digest


NOT_REACHED = {
    "another number of its module": ("A = 1\n", "A = 2\n"),
    "a module that it does not name": ("B = 1\n", "B = 2\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_REACHED)
def test_another_file_changes_nothing(module, what):
    """What a function names counts; its own file counts as a whole."""
    text = "import neighbour\ndef slot(out): out[0] = 1.0"
    first, edited = (
        Identity(module(neighbour=neighbour, slots=text).slot) for neighbour in NOT_REACHED[what]
    )
    assert first.digest == edited.digest


UNKNOWN = {
    # what the slot's module defines, what the slot uses, what is said of it
    "an object of C code": (
        "import re\nM = re.match('a', 'a')", "M", "slots.slot names an object of re.Match",
    ),
    "an object of NumPy's": ("R = np.random.default_rng()", "R", "slots.slot names an object of numpy"),
    "a list": ("R = [1]", "R", "slots.slot names an object of builtins.list"),
    "a class": ("class K: A = 1", "K.A", "slots.slot names slots.K"),
    "an array of objects": ("R = np.array([None])", "R", "slots.slot names an array of objects"),
    "a large array": ("R = np.ones(10**6)", "R[0]", "slots.slot names an array of 8000000 bytes, more than"),
    "a file": ("def f(): return open('a').read()", "f()", "slots.f calls open()"),
    "the environment": (
        "import os\ndef f(): return os.environ['A']", "f()", "slots.f may read anything in the module 'os'",
    ),
    "a module by another name": ("from os import environ as E", "E['A']", "slots.slot names an object of os"),
    "an attribute by any name": ("def f(name): return getattr(helper, name)", "f('A')", "calls getattr()"),
    "a module's dictionary": ("", "helper.__dict__['A']", "may read anything in the module 'helper'"),
    "a module's own __getattr__": (
        "helper.__getattr__ = print", "helper.A", "may read anything in the module 'helper'",
    ),
    "a module in a container": (
        "R = (helper,)", "R[0].A", "slots.slot names the module 'helper' in a container",
    ),
    "a lazy import": (
        "def f():\n    import not_yet\n    return not_yet.A", "f()",
        "slots.f imports 'not_yet' when it runs",
    ),
    "a jitted class": (
        "from numba.experimental import jitclass\n@jitclass([])\nclass K:\n    def __init__(self): pass",
        "K().a", "slots.slot names slots.K",
    ),
    "a ufunc of Numba's": ("@numba.vectorize\ndef f(x): return x", "f(out)", "names an object of numba.np"),
    "a ufunc of SciPy's": ("from scipy.special import erf", "erf(1.0)", "names an object of numpy.ufunc"),
    "what raises when looked at": (
        "class K:\n    __slots__ = 'a'\n    def __getattribute__(self, name): raise ValueError\nR = K()",
        "R", "slots.slot names an object of slots.K",
    ),
    "a function without a file": (
        "exec('def f(): return 1', made := dict(__name__='slots'))\nf = made['f']", "f()",
        "slots.f is of no module that has a file of source text",
    ),
    "a function with attributes": ("def f(): return f.a\nf.a = helper.A", "f()", "slots.f has attributes"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_cannot_be_known_is_reported(module, what):
    defined, used, said = UNKNOWN[what]
    made = module(helper="A = 1", slots=SLOT.replace("USE", used) + defined)
    first, second = (Identity(made.slot) for _ in range(2))
    assert said in first.unknown
    assert first.digest != second.digest, "a name of what is unknown was given twice"


def test_what_changes_after_it_was_read_is_noticed(module):
    made = module(helper="SCALE = 1.0", slots=SLOT.replace("USE", "helper.SCALE"))
    identity = Identity(made.slot)
    outer = Identity(identity)
    made.helper.SCALE = 2.0
    assert not identity.is_current()
    assert not outer.is_current()


def test_an_attribute_of_a_closed_over_module_is_read(module):
    closing = "def make(m):\n    def f(x): return m.A\n    return f\nf = make(helper)"
    made = module(helper="A = 1.0", slots=SLOT.replace("USE", "f(1)") + closing)
    first = Identity(made.slot)
    made.helper.A = 2.0
    assert first.digest != Identity(made.slot).digest


def test_a_file_that_was_edited_after_it_was_loaded_is_noticed(module, tmp_path):
    """The digest would be that of the new text, and the code that of the old one."""
    made = module(helper="def f(x): return x", slots=SLOT.replace("USE", "helper.f(1.0)"))
    (tmp_path / "helper.py").write_text("def f(x): return x + 1")
    assert Identity(made.slot).unknown == "the file of helper.f has another text than when it was loaded"


# --- digests and names -----------------------------------------------------------------------------


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


@pytest.mark.slow  # processes, 6 s
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


@pytest.mark.slow  # two processes, 8 s
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
