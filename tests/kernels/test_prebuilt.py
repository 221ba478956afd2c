"""Machine code that came with a wheel: whom it serves, what goes before it, and that it is right."""

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
import zipfile

import numpy as np
import pytest
from llvmlite import binding
from support import needs, pages
from support.processes import python
from support.selection import campaign

from fastmlp.cli.main import main
from fastmlp.kernels.codegen import machine
from fastmlp.kernels.codegen.machine import LEVELS
from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.store import MachineCode
from fastmlp.model.state import DTYPES
from wheels import machine_code

HERE = machine.level()
FOREIGN = "x86-64-v3" if platform.machine().lower() in ("aarch64", "arm64") else "aarch64"
EXACT = dict(zip(machine.PROCESSOR, machine.processor()[1:], strict=False))
"""Variables of Numba's that have code compiled for this very processor."""

of_a_level = pytest.mark.skipif(HERE is None, reason="this processor meets no level")


def run(code, *arguments, cwd=pages.ROOT, **environment):
    """What a new process prints as JSON, in its last line."""
    environment = {"PYTHONPATH": None, store.PREBUILD: None, **environment}
    done = python("-W", "error", "-c", code, *arguments, cwd=cwd, **environment)
    return json.loads(done.stdout.splitlines()[-1])


def features_of(level):
    return ",".join(f"+{one}" for one in sorted(level.features))


@pytest.mark.parametrize("name", LEVELS)
def test_a_level_has_the_tiles_of_its_processors(name):
    level, tiles = LEVELS[name], {"x86-64-v4": machine.AVX512, "x86-64-v3": machine.AVX2}
    for triple in level.triples:
        found = machine.machine_of(f"{triple}-unknown-linux-gnu", level.cpu, features_of(level))
        assert found.tiles == tiles.get(name, machine.NEON).tiles


LEVEL = "import json; from fastmlp.kernels.codegen import machine; print(json.dumps(machine.level()))"


@pytest.mark.slow  # a process each
@of_a_level
@pytest.mark.parametrize(
    ("variable", "value"), [*zip(machine.PROCESSOR, ("generic", "+sse4.2", "0"), strict=True)]
)
def test_code_is_for_the_processor_that_a_variable_of_numbas_names(variable, value):
    assert run(LEVEL, **{variable: value}) is None


@of_a_level
def test_a_process_is_held_to_a_level(monkeypatch):
    for name in (HERE, *(other for other in LEVELS if LEVELS[other].features < LEVELS[HERE].features)):
        monkeypatch.setenv(machine.LEVEL, name)
        if LEVELS[name].triples == LEVELS[HERE].triples:
            assert machine.level.__wrapped__() == name
    for wrong in ("v3", FOREIGN):
        monkeypatch.setenv(machine.LEVEL, wrong)
        with pytest.raises(ValueError, match=f"^FASTMLP_LEVEL must be a level that .*{HERE}.*got '{wrong}'$"):
            machine.level.__wrapped__()
    monkeypatch.setenv(machine.LEVEL, "")
    assert machine.level.__wrapped__() == HERE


def test_the_command_line_refuses_a_wrong_level_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv(machine.LEVEL, "v3")
    monkeypatch.setattr(machine, "level", machine.level.__wrapped__)
    with pytest.raises(SystemExit, match="2"):
        main(["cache"])
    assert capsys.readouterr().err.startswith("fastmlp: error: FASTMLP_LEVEL must be a level that ")


def test_a_processor_that_lacks_one_feature_is_of_a_lower_level(monkeypatch):
    for name in machine.PROCESSOR:
        monkeypatch.delenv(name, raising=False)
    for name, level in LEVELS.items():
        for missing in (None, *level.features):
            features = ",".join(f"+{one}" for one in level.features - {missing})
            found = f"{level.triples[0]}-unknown-linux-gnu", "any", features
            monkeypatch.setattr(machine, "processor", lambda found=found: found)
            assert (machine.level.__wrapped__() == name) == (missing is None)


CODE = MachineCode("of the package", b"object code", ("memset",))


@pytest.fixture
def carried(tmp_path, monkeypatch):
    """The package's own folder, with one function; the user's cache is empty."""
    folder = tmp_path / "carried"
    folder.mkdir()
    content = store.content_of(CODE)
    file = folder / store.file_name("piece", "key")
    file.write_bytes(store.checksum_of(content) + content)
    monkeypatch.setattr(store, "CARRIED", folder)
    monkeypatch.delenv(store.PREBUILD, raising=False)
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def test_the_users_cache_goes_first_and_no_directory_is_needed(carried, monkeypatch):
    assert store.load("piece", "key") == CODE
    assert store.has("piece", "key")
    own = CODE._replace(symbol="of the user's")
    store.save("piece", "key", own)
    assert store.load("piece", "key") == own
    (file,) = (carried.parent / "cache" / "fastmlp").glob("piece.*.bin")
    file.write_bytes(file.read_bytes()[:-1])
    assert store.load("piece", "key") == CODE
    monkeypatch.setenv("FASTMLP_CACHE_DIR", os.devnull)
    with pytest.raises(store.StoreUnusable):
        store.directory()
    assert store.load("piece", "key") == CODE


def test_nothing_is_read_where_the_cache_is_off(carried, monkeypatch):
    for name, value in ((store.SWITCH, "0"), (store.PREBUILD, "none")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert store.load("piece", "key") is None
            assert not store.has("piece", "key")
    assert store.load("piece", "key") == CODE


@of_a_level
def test_the_cache_command_shows_the_level_and_the_code_of_the_package(carried, capsys):
    assert main(["cache"]) == 0
    said = rf"^level      {HERE}\ncarried    1 file, \d+ bytes in {re.escape(str(carried))}$"
    assert re.search(said, capsys.readouterr().out, re.M)


def test_each_damaged_byte_of_the_wheels_code_is_noticed(carried):
    (file,) = carried.glob("*.bin")
    whole = file.read_bytes()
    for place in range(len(whole)):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]):
            file.write_bytes(damaged)
            assert store.load("piece", "key") is None
    file.write_bytes(whole)
    assert store.load("piece", "key") == CODE


UPDATE = """
import json, sys
from pathlib import Path
import numpy as np
from fastmlp import Adam, Network
from fastmlp.kernels.jit import engine, store
from fastmlp.model.state import initial_state
sys.path.insert(0, "tests")
from support.updates import update
store.CARRIED = Path(sys.argv[1])
state = initial_state(np.linspace(-1, 1, 5 * 7 + 7 + 7 * 2 + 2, dtype=np.float32))
state.gradients[:] = state.parameters[::-1]
update("fused", Network([5, 7, 2]), Adam(clip_norm=0.5), state, (0.01, 0.02))
print(json.dumps([state.parameters.tobytes().hex(), len(engine.compiled), "numba" in sys.modules]))
"""

WRITE = """
import sys
from fastmlp.kernels.codegen.machine import compile_for
compile_for(sys.argv[1])
from wheels.machine_code import write
write(sys.argv[2], ["float32"], sys.argv[3].split(","))
print("null")
"""


@pytest.mark.slow  # two processes that compile
@of_a_level
def test_a_step_from_an_empty_cache(tmp_path):
    (tmp_path / HERE).mkdir()
    run(WRITE, HERE, tmp_path / HERE, "update", FASTMLP_CACHE="0")
    cache = tmp_path / "cache"
    bits, compiled, loaded = run(UPDATE, tmp_path / HERE, FASTMLP_CACHE_DIR=str(cache))
    assert (compiled, loaded) == (0, False)
    assert not [*cache.rglob("*.bin")]
    compiled_here, compiled, loaded = run(UPDATE, tmp_path / "none", FASTMLP_CACHE_DIR=str(cache))
    assert compiled > 0
    assert loaded
    assert bits == compiled_here


def with_one_bit_changed(content):
    """The content of a file with one bit of its instructions changed."""
    length = int.from_bytes(content[:4], "little") + 4
    sections = binding.ObjectFileRef.from_data(content[length:]).sections()
    code = max((section.data() for section in sections if section.is_text()), key=len)
    start = content.index(code, length)
    changed = bytearray(content)
    changed[start + len(code) // 2] ^= 1
    return bytes(changed)


@pytest.mark.slow  # four processes that compile
def test_a_verifying_process_finds_an_instruction_that_the_sources_do_not_give(tmp_path):
    places = {"FASTMLP_CACHE_DIR": str(tmp_path), "FASTMLP_PREBUILD": "none"}
    bits, compiled, _ = run(UPDATE, tmp_path, **places)
    assert compiled > 1
    files = {file: file.read_bytes() for file in (tmp_path / "fastmlp").glob("*.bin")}
    assert run(UPDATE, tmp_path, **places, FASTMLP_VERIFY="1") == [bits, 0, True]
    for name in ("update-kernels.variants.fused", "update_part-kernels.variants.tiled"):
        ((file, whole),) = (one for one in files.items() if one[0].name.startswith(f"{name}."))
        changed = with_one_bit_changed(whole[store.DIGEST :])
        file.write_bytes(store.checksum_of(changed) + changed)
        done = python("-c", UPDATE, tmp_path, cwd=pages.ROOT, exit_code=1, **places, FASTMLP_VERIFY="1")
        said = (
            f"RuntimeError: FASTMLP_VERIFY: the machine code of '{name}' for .* is not what its sources give"
        )
        place = re.escape(repr(str(file)))
        assert re.search(rf"{said}, in section \S*text\S*; it was read from {place}\n", done.stderr)
        assert file.read_bytes() != whole, "what shows the fault is gone"
        file.write_bytes(whole)


def others():
    """Other levels of this kind of processor, which it can compile for."""
    same = [name for name, one in LEVELS.items() if HERE and one.triples == LEVELS[HERE].triples]
    return [name for name in same if name != HERE]


@pytest.mark.slow  # a process that compiles
@pytest.mark.parametrize("level", others())
def test_code_is_written_for_processors_of_another_level(tmp_path, level):
    run(WRITE, level, tmp_path, "update", FASTMLP_CACHE="0")
    assert [*tmp_path.glob("update-*.bin")]


TRAIN = """
import hashlib, json, sys, warnings
import numpy as np
import fastmlp
from fastmlp.kernels.jit import engine

rng, found = np.random.default_rng(0), {}
rows = X = rng.random((300, 20))
if sys.argv[1] == "sparse":
    from scipy.sparse import csr_array
    rows = csr_array(X * (rng.random(X.shape) < 0.2))
optimizers = {
    "sgd": fastmlp.SGD(0.1), "nesterov": fastmlp.SGD(0.1, 0.9, True), "rmsprop": fastmlp.RMSprop(),
    "adamw": fastmlp.AdamW(clip_norm=1.0), "sparse": fastmlp.SparseAdam(),
}
networks = {
    "digits": fastmlp.Network([20, 40, 10], "relu", "softmax", "cross_entropy", dropout=0.1, l2=1e-3),
    "deep": fastmlp.Network([20, 30, 17, 1], ["gelu", "tanh"], "sigmoid", "binary_cross_entropy", l1=1e-3),
    "wide": fastmlp.Network([20, 600, 2], "silu", "identity", "huber"),
}
for backend in ("fused", "auto"):
    for dtype in sys.argv[2].split(","):
        for one, network in networks.items():
            y = np.arange(300) % 10 if one == "digits" else rng.random((300, network.n_out)) > 0.5
            for name, optimizer in optimizers.items():
                model = fastmlp.fit(
                    network, rows, y, optimizer=optimizer, epochs=2, batch_size=32, seed=0,
                    validation=0.2, backend=backend, dtype=dtype, progress=False,
                )
                made = hashlib.sha256(model.parameters.tobytes() + np.asarray(model.predict(rows)).tobytes())
                found[" ".join((backend, dtype, one, name))] = made.hexdigest()
print(json.dumps([fastmlp.__file__, found, len(engine.compiled), "numba" in sys.modules]))
"""


def unpacked(folder, change=None, **environment):
    """Return the package of a wheel, and its name, as pip builds it of a copy that `change` changes."""
    pages.copy(pages.ROOT, folder / "source")
    if change is not None:
        change(folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder]
    variables = {name: value for name, value in os.environ.items() if name != store.PREBUILD} | environment
    subprocess.run([*command, folder / "source"], env=variables, check=True, capture_output=True)
    assert not (folder / "source" / "fastmlp" / "prebuilt").exists()
    (wheel,) = folder.glob("fastmlp-*-py3-none-*.whl")
    assert wheel.stat().st_size < 15e6
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "target")
    return folder / "target", wheel.name


@pytest.fixture(scope="module")
def installed(tmp_path_factory, request):
    """A folder with the package of a wheel, which is built for this processor's level and some dtypes."""
    dtypes = request.param.split(",")

    def change(source):
        compiles = source / "wheels" / "machine_code.py"
        text = compiles.read_text()
        assert text.count(" = DTYPES,") == 1
        compiles.write_text(text.replace(" = DTYPES,", f" = {dtypes!r},"))

    found, wheel = unpacked(tmp_path_factory.mktemp("wheel"), change, FASTMLP_PREBUILD=HERE)
    assert not wheel.endswith("any.whl")
    return found


FIRST = """
import json, sys, warnings
import fastmlp
from fastmlp.kernels.jit import engine
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

warnings.simplefilter("ignore")  # that five epochs are few
from scipy.sparse import csr_array

for load, kind in (
    (load_digits, fastmlp.MLPClassifier), (load_breast_cancer, fastmlp.MLPClassifier),
    (load_diabetes, fastmlp.MLPRegressor),
):
    X, y = load(return_X_y=True)
    for rows in (X, X.astype("float32"), csr_array(X)):
        kind(max_iter=5, random_state=0).fit(rows, y).predict(rows)
network = fastmlp.Network([X.shape[1], 128, 10], output="softmax", loss="cross_entropy")
model = fastmlp.fit(network, X, y.astype(int) % 10, optimizer=fastmlp.Adam(0.002), epochs=20, seed=0)
model.predict(X)
print(json.dumps([fastmlp.__file__, engine.compiled, "numba" in sys.modules]))
"""


@pytest.mark.slow  # compiles for half a minute of processor time
@pytest.mark.xdist_group("packaging")
def test_pip_compiles_what_first_calls_need_for_the_machine_that_it_runs_on(tmp_path):
    found, wheel = unpacked(tmp_path)
    assert not wheel.endswith("any.whl")
    assert "manylinux" not in wheel, "an index would take it, and it serves few processors"
    place, compiled, loaded = in_folder(found, FIRST, FASTMLP_CACHE_DIR=str(tmp_path / "empty"))
    assert place.startswith(str(found))
    assert (compiled, loaded) == ([], False)
    assert f"for {HERE or 'this processor'}" in (found / "fastmlp" / "prebuilt" / "why.txt").read_text()


HIDES = "import sys; sys.path[:] = [path for path in sys.path if not path.endswith('-packages')]"
"""What pip has in a folder of PYTHONPATH: the environment's own packages are hidden."""

NEEDED = """
import json, subprocess, sys
sys.path.append("wheels")
import with_machine_code as backend
sys.executable = sys.argv[1]
needed = backend._compilers()
done = subprocess.run([sys.executable, "-c", "import numba"], env=backend._with_compilers())
print(json.dumps([[one[:5] for one in needed], done.returncode == 0]))
"""
"""What a build requires that is for the environment of an interpreter, and whether it finds Numba there."""


@pytest.mark.slow  # some processes
def test_a_build_takes_numba_from_the_environment_that_it_is_for(tmp_path):
    for package in ("setuptools", "_distutils_hack"):
        (folder,) = importlib.util.find_spec(package).submodule_search_locations
        shutil.copytree(folder, tmp_path / package)
    (tmp_path / "sitecustomize.py").write_text(HIDES)
    isolated = {"PIP_BUILD_TRACKER": "1", "PYTHONPATH": str(tmp_path)}
    assert run(NEEDED, sys.executable, **isolated) == [[], True]
    venv.create(tmp_path / "bare", with_pip=False)
    bare = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    assert run(NEEDED, bare, **isolated) == [["numpy", "numba"], False]
    assert run(NEEDED, bare, **isolated, FASTMLP_PREBUILD="none") == [[], False]


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")
def test_an_installation_does_not_fail_where_nothing_can_be_compiled(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "numba.py").write_text("raise ImportError('no compiler here')")
    found, wheel = unpacked(tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    assert wheel.endswith("any.whl")
    why = (found / "fastmlp" / "prebuilt" / "why.txt").read_text()
    assert why == "nothing was compiled: ImportError: no compiler here\n"


@pytest.mark.parametrize(
    ("level", "error"),
    [
        ("v5", f"unknown level 'v5'; choose from: host, all, {', '.join(LEVELS)}"),
        (FOREIGN, f"the level {FOREIGN!r} cannot be compiled for on {platform.machine()}"),
        ("host", "'host' goes with no other level"),
        ("all", "'all' goes with no other level"),
    ],
)
def test_a_level_that_cannot_be_built_is_refused_in_one_line(tmp_path, monkeypatch, capsys, level, error):
    monkeypatch.setattr(sys, "argv", ["machine_code", str(tmp_path), level, *LEVELS])
    assert machine_code.main() == 2
    assert capsys.readouterr().err == f"FASTMLP_PREBUILD: {error}\n"


@pytest.mark.parametrize(
    ("triple", "levels"),
    [
        ("x86_64-pc-windows-msvc", ["x86-64-v4", "x86-64-v3"]),
        ("aarch64-unknown-linux-gnu", ["neoverse-v1", "aarch64"]),
        ("arm64-apple-darwin25.0.0", ["apple-m1"]),
    ],
)
def test_all_levels_are_those_that_a_processor_of_the_system_may_have_as_its_best(triple, levels):
    assert machine_code.levels_of(triple) == levels


def in_folder(folder, code, *arguments, **environment):
    """Return what `run` does, with the package of a folder."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    return run(code, *arguments, cwd=folder, **environment)


SHARE = "float32"
"""The dtype of which machine code is compiled for the wheel of the slow tests: a wheel's takes a minute."""


@of_a_level
@pytest.mark.xdist_group("packaging")
@pytest.mark.parametrize("rows", ["dense", "sparse"])
@pytest.mark.parametrize(
    "installed",
    [pytest.param(SHARE, marks=pytest.mark.slow), pytest.param(",".join(DTYPES), marks=campaign)],
    indirect=True,
)
def test_a_wheel_trains_at_once_with_the_bits_of_what_is_compiled_for_this_very_processor(
    installed, tmp_path, rows, request
):
    dtypes = request.node.callspec.params["installed"]
    place, bits, compiled, loaded = in_folder(
        installed, TRAIN, rows, dtypes, FASTMLP_CACHE_DIR=str(tmp_path / "empty")
    )
    assert place.startswith(str(installed))
    assert compiled == 0
    assert not loaded
    place, compiled_here, compiled, _ = run(TRAIN, rows, dtypes, **EXACT)
    assert place.startswith(str(pages.ROOT))
    assert bits == compiled_here


# --- wheels, variables and processors drawn at random --------------------------------------------------

SMALL = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from fastmlp import SGD, Adam, Network, RMSprop
from fastmlp.backend import registry
from fastmlp.kernels.codegen.machine import level, target
from fastmlp.kernels.jit import engine, store
from fastmlp.model.layout import parameter_count
from fastmlp.model.state import initial_state
sys.path.insert(0, "tests")
from support.updates import update

store.CARRIED, bits, rng = Path(sys.argv[1]), hashlib.sha256(), np.random.default_rng(0)
network = Network([20, 33, 5], ["gelu"], "softmax", "cross_entropy", l2=1e-3)
X, out = rng.random((60, 20), np.float32), np.empty((60, 5), np.float32)
for name in ("fused",) if sys.argv[2] == "compute" else ():
    backend = registry.get(name)
    for optimizer in (SGD(momentum=0.9), Adam(clip_norm=0.5), RMSprop()):
        state = initial_state(rng.standard_normal(parameter_count(network), np.float32))
        state.gradients[:] = state.parameters[::-1]
        update(name, network, optimizer, state, (0.01, 0.02))
        backend.predict(network, state.parameters, X, out)
        bits.update(state.parameters.tobytes() + out.tobytes())
print(json.dumps([level(), bits.hexdigest(), len(engine.compiled), target()[1:]]))
"""


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """A folder with the code of updates and predictions in float32, for all levels of this kind."""
    place = tmp_path_factory.mktemp("levels")
    for name in (HERE, *others()):
        run(WRITE, name, place, "update,predict", FASTMLP_CACHE="0")
    return place


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A cache that processors and releases share."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def bits_of(tmp_path_factory, levels):
    """A function that returns the bits of `SMALL` compiled for a processor by LLVM's names, or a level."""
    known = {}

    def bits(cpu, features):
        if (cpu, features) not in known:
            processor = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
            cache = {"FASTMLP_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))}
            _, found, compiled, _ = run(SMALL, levels, "compute", **cache, **processor)
            assert compiled > 0
            known[cpu, features] = found
        return known[cpu, features]

    return bits


ON_ARM = """
from llvmlite import binding

binding.initialize_all_targets()
binding.initialize_all_asmprinters()
binding.get_process_triple = lambda: "aarch64-unknown-linux-gnu"
binding.get_host_cpu_name = lambda: "neoverse-n1"
binding.get_host_cpu_features = lambda: binding.FeatureMap(neon=True, lse=True)
"""
"""A processor of ARM's, by what LLVM says of it."""

LOOK = """
import ctypes, json, re, sys
from pathlib import Path
from fastmlp.backend import registry
from fastmlp.kernels.codes import BY_KIND
from fastmlp.kernels.jit import engine, store

store.CARRIED, loaded = Path(sys.argv[1]), []
engine.can_link = lambda code: True  # nothing is linked here
engine.Engine.load = lambda self, code: loaded.append(code.object_code) or 1


def look_for(request, code):
    text = ctypes.create_string_buffer(request)
    engine._resolve(ctypes.addressof(text), len(request), code)


registry.entries("fused").get("update", "float32")
numbered = {}
for object_code in loaded:  # which grows
    for request in re.findall(rb'\\["[^"]+", \\[.*?\\], (?:null|"[a-z]+"), (?:null|"[^"]*")\\]', object_code):
        name, _, kind, key = json.loads(request)
        if key is not None:
            look_for(request, 0)
        elif kind is None:
            numbered[request] = name
        else:
            for one in BY_KIND[kind].built_in_entries():
                look_for(request, BY_KIND[kind].code(one))
assert "numba" not in sys.modules
from fastmlp.kernels.jit.lazy import makers  # noqa: E402

registry.program_of(registry.get_variant("fused"))
for request, name in numbered.items():
    assert makers[name].codes
    for code in makers[name].codes:
        look_for(request, code)
print(json.dumps([len(engine.compiled), engine.compiled[:3], sorted(store.read_from)]))
"""
"""Finds machine code as its own requests ask for it; only the numbers of tiles are from the compiler."""


@pytest.mark.slow  # a process that compiles
def test_an_arm_processor_looks_for_the_names_that_a_build_for_it_makes(tmp_path):
    carried, quiet = tmp_path / "carried", {"FASTMLP_CACHE_DIR": str(tmp_path / "empty")}
    carried.mkdir()
    run(ON_ARM + WRITE, "aarch64", carried, "update", FASTMLP_CACHE="0")
    compiled, some, read = run(ON_ARM + LOOK, carried, **quiet)
    assert (compiled, some) == (0, [])
    assert read == sorted(os.listdir(carried))


VARIABLES = (
    {}, {}, {"FASTMLP_CACHE": "0"}, {"FASTMLP_CACHE_BYTES": str(1 << 20)},
    {"FASTMLP_CACHE_BYTES": "a lot"}, {"FASTMLP_CACHE_DIR": os.devnull}, {"FASTMLP_CACHE_DIR": "/proc/none"},
    {"NUMBA_OPT": "3"}, {"NUMBA_BOUNDSCHECK": "0"}, {"NUMBA_ENABLE_AVX": "1"},
)  # fmt: skip


def damaged(rng, folder):
    """Do to some files, or to all, what a bad disk or a broken build does; return what that is."""
    files = sorted(folder.iterdir())
    what = ("nothing", "nothing", "cut", "turned", "gone", "empty", "a file")[rng.integers(7)]
    for file in rng.choice(files, [1, 5, len(files)][rng.integers(3)], replace=False):
        content = bytearray(file.read_bytes())
        if what == "cut":
            file.write_bytes(content[: rng.integers(len(content))])
        elif what == "turned":
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            file.write_bytes(content)
        elif what == "empty":
            file.write_bytes(b"")
        elif what == "gone":
            file.unlink()
    if what == "a file":
        shutil.rmtree(folder)
        folder.touch()
    return what


@campaign
@of_a_level
@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_wheel_and_odd_variables_change_no_bit(seed, levels, shared, bits_of, tmp_path):
    rng = np.random.default_rng(seed)
    place, variables = tmp_path / "carried", VARIABLES[rng.integers(len(VARIABLES))]
    shutil.copytree(levels, place)
    what = damaged(rng, place)
    cache = str(shared if rng.random() < 0.6 else tmp_path / "cache")
    level, bits, compiled, (cpu, features) = run(
        SMALL, place, "compute", **{"FASTMLP_CACHE_DIR": cache, **variables}
    )
    assert level == (None if "NUMBA_ENABLE_AVX" in variables else HERE)
    assert bits == bits_of(cpu, features)
    if what == "nothing" and not any(
        name == "FASTMLP_CACHE" or name.startswith("NUMBA") for name in variables
    ):
        assert compiled == 0


WITH_AVX2 = ("Haswell-noTSX", "Skylake-Client-noTSX-IBRS", "EPYC-Rome", "Cascadelake-Server-noTSX", "max")
OLDER = ("Nehalem", "Westmere", "SandyBridge", "IvyBridge", "Denverton")
"""Processors by qemu's names, which emulates no AVX-512."""

FEATURES = ("avx2", "fma", "bmi2", "f16c", "abm", "movbe", "xsave")
"""Features of AVX2's level that a processor may lack, by qemu's names, of which glibc and NumPy need none."""


def emulated(processor, *arguments, **environment):
    """What a new process on an emulated processor prints as JSON, in its last line."""
    command = [needs.EMULATOR, "-cpu", processor, sys.executable, "-W", "error", "-c", *map(str, arguments)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, cwd=pages.ROOT, capture_output=True, text=True,
        timeout=needs.PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@campaign
@needs.emulator
@pytest.mark.parametrize("seed", range(40))
def test_an_emulated_processor_takes_a_wheels_code_if_it_has_all_that_the_code_uses(
    seed, levels, shared, bits_of
):
    rng = np.random.default_rng(seed)
    newer = rng.random() < 0.7
    processor = rng.choice(WITH_AVX2 if newer else OLDER)
    lacking = rng.choice(FEATURES, [0, 0, 1, 2][rng.integers(4)], replace=False) if newer else ()
    serves = newer and not len(lacking)
    level, bits, compiled, _ = emulated(
        ",".join([processor, *(f"-{name}" for name in lacking)]),
        SMALL, levels, "compute" if serves else "look", FASTMLP_CACHE_DIR=str(shared),
    )  # fmt: skip
    assert level == ("x86-64-v3" if serves else None)
    assert compiled == 0
    if serves:
        assert bits == bits_of(LEVELS["x86-64-v3"].cpu, features_of(LEVELS["x86-64-v3"]))


@campaign  # an emulated compiler takes two minutes
@needs.emulator
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell-noTSX,-movbe"])
def test_an_emulated_processor_of_no_level_compiles(processor, levels, bits_of, tmp_path):
    cache = {"FASTMLP_CACHE_DIR": str(tmp_path)}
    level, bits, compiled, target = emulated(processor, SMALL, levels, "compute", **cache)
    assert level is None
    assert compiled > 0
    assert bits == bits_of(*target)
