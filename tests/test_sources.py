"""What stands in a digest: all that a slot can reach, and nothing else. What cannot be known is told."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import fastmlp
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.jit import bytecode, digest

PACKAGE = Path(fastmlp.__file__).parent


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Import modules from their texts, {name: text}, in this order; return the last."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def make(**texts):
        for name in texts:
            sys.modules.pop(name, None)
        for name, text in texts.items():
            written.append(name)
            loaded = type(sys)(name)
            sys.modules[name] = loaded
            exec(compile(text, f"{name}.py", "exec"), vars(loaded))
        return loaded

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

REACHED = {
    # what the slot's module defines beside it, what the slot uses, what its helper says: first, then edited
    "a module's attribute": ("", "helper.SCALE", "SCALE = 1.0", "SCALE = 2.0"),
    "a module's function": ("", "helper.f(1.0)", "def f(x): return x", "def f(x): return x + 1"),
    "a constant in a function of it": ("", "helper.f(1)", "def f(x): return 2 * x", "def f(x): return 3 * x"),
    "a jitted function of it": (
        "",
        "helper.f(1.0)",
        "import numba\nSCALE = 1.0\n@numba.njit\ndef f(x): return SCALE * x",
        "import numba\nSCALE = 2.0\n@numba.njit\ndef f(x): return SCALE * x",
    ),
    "options of a jitted function": (
        "",
        "helper.f(1.0)",
        "import numba\n@numba.njit\ndef f(x): return x",
        "import numba\n@numba.njit(fastmath={'nsz'})\ndef f(x): return x",
    ),
    "through another jitted function": (
        "@numba.njit\ndef through(x): return helper.f(x)",
        "through(1.0)",
        "def f(x): return x",
        "def f(x): return -x",
    ),
    "a name that a function calls": (
        "",
        "helper.f(1.0)",
        "import math\ndef f(x): return math.sin(x)",
        "import math\ndef f(x): return math.cos(x)",
    ),
    "a constant in a container": ("TABLE = (1, (helper.A, 2))", "TABLE[1][0]", "A = 1.5", "A = 2.5"),
    "a dictionary": ("TABLE = {'a': [helper.A]}", "TABLE['a']", "A = 1.5", "A = 2.5"),
    "an array": ("TABLE = np.array([1, helper.A])", "TABLE[1]", "A = 1.5", "A = 2.5"),
    "an array's dtype": ("TABLE = np.array([1], helper.A)", "TABLE[0]", "A = 'i4'", "A = 'u4'"),
    "modules that import one another": (
        "helper.helper = helper",
        "helper.helper.helper.A",
        "A = 1.5",
        "A = 2.5",
    ),
    "a default": ("def f(x, a=helper.A): return a", "f(1)", "A = 1.5", "A = 2.5"),
    "a closure": (
        "def make(a):\n    def f(x): return a\n    return f\nf = make(helper.A)",
        "f(1)",
        "A = 1.5",
        "A = 2.5",
    ),
    "a closed-over module": (
        "def make(m):\n    def f(x): return m.A\n    return f\nf = make(helper)",
        "f(1)",
        "A = 1.5",
        "A = 2.5",
    ),
    "a class attribute": ("class K(helper.Base): pass", "K.A", "class Base: A = 1", "class Base: A = 2"),
    "a method": (
        "class K(helper.Base): pass",
        "K",
        "class Base:\n    def f(self): return 1",
        "class Base:\n    def f(self): return 2",
    ),
    "a member of an enum": (
        "K = helper.K",
        "K.A.value",
        "import enum\nclass K(enum.IntEnum): A = 1",
        "import enum\nclass K(enum.IntEnum): A = 2",
    ),
    "a field of a tuple": ("class P(NamedTuple):\n    a: int\nP0 = P(helper.A)", "P0.a", "A = 1", "A = 2"),
    "an instance": (
        "@dataclass(frozen=True)\nclass P:\n    a: int\nP0 = P(helper.A)",
        "P0.a",
        "A = 1",
        "A = 2",
    ),
    "slots of an instance": (
        "class P:\n    __slots__ = ('a',)\nP0 = P()\nP0.a = helper.A",
        "P0.a",
        "A = 1",
        "A = 2",
    ),
    "a bound method": (
        "class P:\n    def f(self): return self.a\nP0 = P()\nP0.a = helper.A\nf = P0.f",
        "f()",
        "A = 1",
        "A = 2",
    ),
    "partial": ("f = functools.partial(max, helper.A)", "f(0)", "A = 1", "A = 2"),
    "what writes an intrinsic": (
        "@intrinsic\ndef f(ctx):\n    return types.int64(), lambda c, b, s, v: helper.emit(c)",
        "f()",
        "from llvmlite import ir\ndef emit(c): return ir.Constant(ir.IntType(64), 1)",
        "from llvmlite import ir\ndef emit(c): return ir.Constant(ir.IntType(64), 2)",
    ),
    "a function within a function": (
        "",
        "helper.f(1.0)",
        "def f(x):\n    g = lambda y: [y + 1 for _ in b'']\n    return g(x)",
        "def f(x):\n    g = lambda y: [y + 2 for _ in b'']\n    return g(x)",
    ),
    "a module imported by a function": (
        "def f():\n    import helper\n    return helper.A",
        "f()",
        "A = 1",
        "A = 2",
    ),
    "a string in a list": (
        "",
        "helper.f()",
        "def f(): return ['a' for i in b'']",
        "def f(): return ['b' for i in b'']",
    ),
    "numbers alike": ("", "helper.A", "A = 0.0", "A = -0.0"),
    "numbers of another kind": ("", "helper.A", "A = 1", "A = True"),
}  # fmt: skip


def digest_of_slot(made):
    reach = digest.Reach(made.slot)
    assert reach.unknown is None
    assert reach.unchanged()
    return reach.digest


@pytest.mark.parametrize("what", REACHED)
def test_what_a_slot_reaches_stands_in_its_digest(module, what):
    defined, used, before, after = REACHED[what]
    text = SLOT.replace("USE", used) + defined
    first, again, edited = (digest_of_slot(module(helper=h, slots=text)) for h in (before, before, after))
    assert first == again
    assert first != edited


NOT_REACHED = {
    "a docstring": ("def f(x):\n    'One.'\n    return x", "def f(x):\n    'Two.'\n    return x"),
    "a comment and lines": ("def f(x): return x", "# a comment\n\n\ndef f(x):\n    return x"),
    "a class's docstring": (
        "class K:\n    'One.'\n    A = 1\ndef f(x): return K.A",
        "class K:\n    'Two.'\n    A = 1\ndef f(x): return K.A",
    ),
    "another function": ("def f(x): return x\ndef g(): pass", "def f(x): return x\ndef g(): return 3"),
    "another number": ("A = 1\ndef f(x): return x", "A = 2\ndef f(x): return x"),
    "the order of names": ("A = 1\nB = 2\ndef f(x): return A + B", "B = 2\ndef f(x): return A + B\nA = 1"),
}


@pytest.mark.parametrize("what", NOT_REACHED)
def test_what_a_slot_does_not_reach_changes_nothing(module, what):
    text = SLOT.replace("USE", "helper.f(1)")
    first, edited = (digest_of_slot(module(helper=helper, slots=text)) for helper in NOT_REACHED[what])
    assert first == edited


UNKNOWN = {
    # what the slot's module defines, what the slot uses, what is said of it
    "an object of C code": (
        "import re\nM = re.match('a', 'a')",
        "M",
        "slots.slot reads an object of re.Match",
    ),
    "an object of NumPy's": ("R = np.random.default_rng()", "R", "slots.slot reads an object of numpy"),
    "a subclass of a list": ("class L(list): pass\nR = L()", "R", "slots.slot reads an object of slots.L"),
    "an array of objects": ("R = np.array([None])", "R", "slots.slot reads an array of objects"),
    "a large array": ("R = np.ones(10**6)", "R[0]", "an array of 8000000 bytes, and Numba keeps none above"),
    "a file": ("def f(): return open('a').read()", "f()", "slots.f calls open()"),
    "the environment": (
        "import os\ndef f(): return os.environ['A']",
        "f()",
        "slots.f may read anything in the module 'os'",
    ),
    "an attribute by any name": (
        "def f(name): return getattr(helper, name)",
        "f('A')",
        "slots.f may read anything in the module 'helper'",
    ),
    "a module's own __getattr__": ("helper.__getattr__ = print", "helper.A", "slots.slot may read anything"),
    "a module in a container": ("R = [helper]", "R[0].A", "slots.slot reads the module 'helper'"),
    "a set of functions": ("def f(): pass\nR = {f, slot}", "R", "slots.slot reads a set of objects"),
    "a lazy import": (
        "def f():\n    import not_yet\n    return not_yet.A",
        "f()",
        "slots.f imports 'not_yet' when it runs",
    ),
    "a jitted class": (
        "from numba.experimental import jitclass\n@jitclass([])\nclass K:\n    def __init__(self): pass",
        "K().a",
        "slots.slot reads Numba's type",
    ),
    "a ufunc of Numba's": ("@numba.vectorize\ndef f(x): return x", "f(out)", "reads an object of numba.np"),
    "a ufunc of SciPy's": ("from scipy.special import erf", "erf(1.0)", "slots.slot reads the ufunc 'erf'"),
    "what raises when looked at": (
        "class K:\n    __slots__ = 'a'\n    def __getattribute__(self, name): raise ValueError\nR = K()",
        "R",
        "which raised ValueError",
    ),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_cannot_be_known_is_told(module, what):
    defined, used, said = UNKNOWN[what]
    made = module(helper="A = 1", slots=SLOT.replace("USE", used) + defined)
    first, second = (digest.Reach(made.slot) for _ in range(2))
    assert said in first.unknown
    assert first.digest != second.digest, "a name of what is unknown was given twice"


def test_what_changes_after_it_was_read_is_noticed(module):
    made = module(helper="SCALE = 1.0", slots=SLOT.replace("USE", "helper.SCALE"))
    reach = digest.Reach(made.slot)
    made.helper.SCALE = 2.0
    assert not reach.unchanged()


OVERLOADED = """
import types, numba
from numba.extending import overload
import fastmlp
from fastmlp.kernels.jit import digest

def f(): pass
def helper(): return NUMBER
@overload(f)
def of_f(): return helper
@numba.njit
def calls(): return f()
print(digest.Reach(calls).digest)
"""


def test_what_is_told_to_compile_for_a_function_stands_in_the_digest():
    def said(number):
        command = [sys.executable, "-c", OVERLOADED.replace("NUMBER", number)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert said("1") != said("2")


@numba.njit
def even(n):
    return n == 0 or odd(n - 1)


@numba.njit
def odd(n):
    return n != 0 and even(n - 1)


def test_functions_that_call_one_another_have_digests():
    assert len({digest_of_jitted(function) for function in (even, odd)}) == 2


def digest_of_jitted(function):
    reach = digest.Reach(function)
    assert reach.unknown is None
    return reach.digest


DIGESTS = """
from fastmlp.backend import registry
from fastmlp.kernels.jit import bind
from fastmlp.kernels.jit import lazy
from fastmlp.kernels.jit import digest
for variant in registry.variants().values():
    program = bind.Program(variant)
    for name in bind.ENTRY_POINTS:
        print(program.source(name).name)
print(*sorted(lazy._makers), sep="\\n")
"""


def test_every_process_gives_the_same_names():
    """Sets have another order in each, objects other addresses."""
    said = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", DIGESTS]
        run = subprocess.run(
            command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        said.add(run.stdout)
    (names,) = said
    assert len(names.splitlines()) > 50


def redocumented(text):
    """Return a module's text with a comment above it and other docstrings, of another length."""
    lines = text.encode().splitlines(keepends=True)
    expressions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    for node in sorted(expressions, key=lambda node: -node.lineno):
        if isinstance(node.value, ast.Constant):
            first, last = node.lineno - 1, node.end_lineno - 1
            before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
            lines[first : last + 1] = [before + b'"""Another\n\ndocstring."""' + after]
    return b"# a comment\n" + b"".join(lines)


def test_another_docstring_or_comment_gives_the_same_names(tmp_path):
    copy = shutil.copytree(PACKAGE, tmp_path / "fastmlp", ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*.py"):
        path.write_bytes(redocumented(path.read_text()))
    first, second = (
        subprocess.run([sys.executable, "-c", DIGESTS], cwd=where, capture_output=True, text=True, check=True)
        for where in (PACKAGE.parent, tmp_path)
    )
    assert first.stdout == second.stdout


KNOWN = """
from fastmlp.backend import registry
from fastmlp.kernels.jit import bind
from fastmlp.kernels.jit import lazy
from fastmlp.kernels.jit import digest

made = []

class Reach(digest.Reach):
    def __init__(self, *roots):
        super().__init__(*roots)
        made.append(self)

bind.Reach = lazy.Reach = Reach
for variant in registry.variants().values():
    program = bind.Program(variant)
    for name in bind.ENTRY_POINTS:
        program.source(name)
print(len(made), [reach.unknown for reach in made if reach.unknown or not reach.unchanged()])
"""


def test_all_that_we_compile_is_known():
    """And was known when it was named: nothing that a piece reaches is defined, or changes, later."""
    command = [sys.executable, "-c", KNOWN]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    count, unknown = run.stdout.split(maxsplit=1)
    assert int(count) > 50
    assert unknown == "[]\n"


def test_a_formula_of_ours_is_its_own_text():
    def formula(scale):
        def twice(z):
            return scale * z

        return jittable(twice)

    assert digest_of_jitted(formula(1.0)) != digest_of_jitted(formula(2.0))
    assert digest_of_jitted(formula(1.0)) == digest_of_jitted(formula(1.0))
    assert digest_of_jitted(formula(np.float32(1))) != digest_of_jitted(formula(np.float64(1)))


@pytest.mark.parametrize("name", ["_math", "_numba", "__numpy", "_types", "numbers_of_mine"])
def test_a_user_s_module_is_none_of_python_s_own(name):
    assert not bytecode.is_computing(name)
    assert bytecode.is_computing("_operator")
