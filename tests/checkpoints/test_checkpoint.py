"""Models on disk: what comes back, and files that nobody sound wrote."""

import copy
import functools
import io
import json
import operator
import zipfile

import numpy as np
import pytest
from support.forged_files import sealed, zipped
from support.problems import data_set
from support.selection import campaign, quick

import fastmlp
from fastmlp import Adam, Callback, Checkpoint, CheckpointError, EarlyStopping, Network, Normal
from fastmlp.checkpoints import checkpoint
from fastmlp.files import archive
from fastmlp.training import loop

X, Y = data_set("diabetes", 50)


class Stop(Callback):
    def on_chunk_end(self, run):
        if run.step == 5:
            run.stop("done")


def trained(callbacks=(), **options):
    network = Network([10, 4, 3, 1], ["gelu", "tanh"], dropout=0.1, l2=0.01, weight_init=Normal(0.3))
    given = {
        "optimizer": Adam(0.01), "epochs": 3, "batch_size": 16, "seed": 7, "validation": 0.2,
        "backend": "reference", "callbacks": callbacks,
    }  # fmt: skip
    return fastmlp.fit(network, X, Y, **{**given, **options})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the file of a model, and of a training that stopped within an epoch."""
    folder = tmp_path_factory.mktemp("written")
    fastmlp.save(trained(), folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "MAX_CHUNK_STEPS", 1)
        trained([EarlyStopping(2), Checkpoint(folder / "training", 99), Stop()])
    return folder


# --- models ---------------------------------------------------------------------------------------------


def test_the_file_of_an_unfinished_training_is_the_model_that_fit_would_have_returned(tmp_path):
    path = tmp_path / "c"
    model = trained([EarlyStopping(2), Checkpoint(path)], optimizer=fastmlp.SGD(0.5), epochs=30)
    assert "not improved" in model.stop_reason
    assert len(model.history["loss"]) > np.argmin(model.history["validation_loss"]) + 1
    np.testing.assert_array_equal(fastmlp.load(path).parameters, model.parameters)


def test_only_models_are_saved(tmp_path):
    with pytest.raises(TypeError, match="model must be a Model, or a list of them, got 3"):
        fastmlp.save(3, tmp_path / "m")


def test_a_backend_that_is_not_here_is_named(tmp_path, sound):
    header, arrays = sound["model"]
    archive.write(tmp_path / "m", {**header, "backend": "mine"}, arrays)
    with pytest.raises(CheckpointError, match="unknown backend 'mine'; choose from: reference"):
        fastmlp.load(tmp_path / "m")


LEVELS = tuple(np.linspace(0.001, 0.999, 60_000).tolist())


@quick(1)
@pytest.mark.parametrize(
    "network",
    [
        Network([10, 60_000], loss=fastmlp.Quantiles(LEVELS)),
        Network(inputs=10, layers=["tanh"], head=fastmlp.Head(60_000, "huber", loss_weights=LEVELS)),
    ],
    ids=["quantiles", "weights of a loss"],
)
def test_a_description_may_be_longer_than_a_million_characters(network, tmp_path):
    x, y = X[:4], np.repeat(Y[:4, None], network.n_out, axis=1)
    options = {"seed": 0, "backend": "reference", "dtype": "float32"}
    model = fastmlp.fit(network, x, y, epochs=0, **options)
    fastmlp.save(model, tmp_path / "m")
    header, _ = archive.read(tmp_path / "m")
    assert len(json.dumps(header)) > 1 << 20
    loaded = fastmlp.load(tmp_path / "m")
    assert loaded.network == network
    np.testing.assert_array_equal(loaded.parameters, model.parameters)


def test_what_load_would_refuse_is_not_written(tmp_path):
    """The file of before would be gone."""
    path, model = tmp_path / "m", trained(epochs=1)
    fastmlp.save(model, path)
    stepper = fastmlp.Stepper(model.network, "sgd", initial=model, dtype="f8", backend="reference")
    broken = fastmlp.load(path)
    broken.parameters[3] = stepper.parameters[3] = np.inf
    for save in (
        lambda: fastmlp.save(broken, path),
        lambda: fastmlp.save([broken], path),
        lambda: stepper.save(path),
    ):
        with pytest.raises(ValueError, match=r"^a parameter of the model is not finite"):
            save()
    np.testing.assert_array_equal(fastmlp.load(path).parameters, model.parameters)


def test_the_file_of_an_unfinished_training_has_its_state(written):
    saved = checkpoint.read_training(written / "training")
    assert (saved.seed, saved.step, saved.epoch_step) == (7, 5, 2)
    assert saved.callbacks[0][0] == "EarlyStopping"
    assert fastmlp.load(written / "training").stop_reason == "done"


# --- files with a seal that holds and a content that does not ---------------------------------------------


@pytest.fixture(scope="module")
def sound(written):
    return {kind: archive.read(written / kind) for kind in ("model", "training")}


def put(what, value):
    def change(header, arrays):
        *path, last = what.split(".")
        place = header
        for key in path:
            place = place[key]
        place[last] = value

    return change


def array(name, value):
    def change(header, arrays):
        arrays[name] = value

    return change


def lacks(name):
    def change(header, arrays):
        del (header if name in header else arrays)[name]

    return change


P = 10 * 4 + 4 + 4 * 3 + 3 + 3 + 1

UNSOUND = {
    "another format": (put("format", 2), "has format 2; this fastmlp reads format 1"),
    "no format": (lacks("format"), "has format None"),
    "a format by name": (put("format", "1"), "has format '1'"),
    "no network": (lacks("network"), "lacks 'network'"),
    "a network by name": (put("network", "3-4-1"), "describes no network"),
    "an optimiser for a network": (put("network.type", "Adam"), "unexpected keyword"),
    "another thing for a network": (put("network", {"type": "Normal", "scale": 1.0}), "describes no network"),
    "700 nested lists": (put("network.layers", functools.reduce(lambda x, _: [x], range(700))), "recursion"),
    "an unknown loss": (put("network.loss", "rmse"), "unknown loss 'rmse'"),
    "a network of another width": (put("network.inputs", 9), "parameters are not the network's"),
    "a network of 10^9 units": (put("network.inputs", 10**9), "more parameters than 2^31"),
    "a width of -1": (put("network.inputs", -1), "at least 1"),
    "an unknown field": (put("network.depth", 3), "depth"),
    "no parameters": (lacks("parameters"), "lacks 'parameters'"),
    "whole parameters": (array("parameters", np.zeros(P, np.int64)), "parameters are not the network's"),
    "parameters in rows": (array("parameters", np.zeros((1, P))), "parameters are not the network's"),
    "nan parameters": (array("parameters", np.full(P, np.nan)), "a parameter is not finite"),
    "an infinite loss": (array("history/loss", np.array([np.inf])), "history is not finite"),
    "a history by number": (put("history", 3), "item assignment"),
    "no loss": (lacks("history/loss"), "lacks the loss"),
    "a reason that is no text": (put("stop_reason", 3), "no text"),
    "a training that is none": (put("training", "yes"), "indices"),
}


UNSOUND_TRAINING = {
    "a step below 0": (put("training.step", -1), "at least 0"),
    "half a step": (put("training.step", 0.5), "whole number"),
    "another step": (put("training.step", 6), "of different steps"),
    "a seed by name": (put("training.seed", "7"), "whole number"),
    "nan moments": (array("training/moments", np.full((2, P), np.nan)), "not a number"),
    "moments of another width": (array("training/moments", np.zeros((2, 3))), "no moments"),
    "one row of moments": (array("training/moments", np.zeros((1, P))), "of different steps"),
    "infinite sums of losses": (array("training/sums", np.full(2, np.inf)), "no losses of an epoch"),
    "sums of a network with heads": (array("training/sums", np.ones(3)), "no losses of an epoch"),
    "another step of the epoch": (put("training.epoch_step", 1), "of different steps"),
    "half a step of the epoch": (put("training.epoch_step", 0.5), "whole number"),
    "one epoch too many": (array("history/loss", np.ones(2)), "of different steps"),
    "nan for the best": (
        array("training/callbacks/0/1/best_parameters", np.full(P, np.nan)),
        "best parameters",
    ),
    "no best parameters": (lacks("training/callbacks/0/1/best_parameters"), "best_parameters"),
    "callbacks by name": (put("training.callbacks", "none"), "indices"),
}


@pytest.mark.parametrize(
    ("what", "kind"),
    [*(("model", kind) for kind in UNSOUND), *(("training", kind) for kind in UNSOUND_TRAINING)],
)
def test_unsound_content_is_refused_in_one_line(what, kind, sound, tmp_path):
    header, arrays = copy.deepcopy(sound[what])
    change, said = (UNSOUND if what == "model" else UNSOUND_TRAINING)[kind]
    change(header, arrays)
    archive.write(path := tmp_path / "c", header, arrays)
    with pytest.raises(CheckpointError) as caught:
        fastmlp.load(path) if what == "model" else trained([EarlyStopping(2)], resume=path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


MISSING = object()


def places(value, path=()):
    """The paths to all that a header holds."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*path, key)
        yield from places(part, (*path, key))


@pytest.mark.slow  # 430 headers, 5 s
def test_nothing_in_a_header_but_is_believed_or_refused(sound, tmp_path, report_figure):
    """Each place in turn is missing or holds what it should not, behind a seal that holds."""
    whole, arrays = sound["training"]
    tried, reasons = 0, []
    for path in places(whole):
        for odd in (None, 0, "x", {}, MISSING):
            header = copy.deepcopy(whole)
            *before, last = path
            place = functools.reduce(operator.getitem, before, header)
            if odd is MISSING:
                del place[last]
            else:
                place[last] = odd
            archive.write(tmp_path / "c", header, arrays)
            tried += 1
            try:
                model = trained([EarlyStopping(2)], resume=tmp_path / "c", seed=None, backend="auto")
            except CheckpointError as error:
                reasons.append(str(error))
            else:
                assert np.isfinite(model.parameters).all()
    assert not any("\n" in reason for reason in reasons)
    refused = len(reasons)
    assert refused > 0.9 * tried
    report_figure(f"{tried} headers, {refused} refused, the others harmless")


# --- fuzzing ----------------------------------------------------------------------------------------------


def mutated(rng, content, others):
    """The content after one to four of the accidents and tricks that a file may meet."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        size = max(1, len(content))
        place, length = int(rng.integers(size)), int(rng.integers(1, 40))
        match rng.integers(7):
            case 0:
                content[place : place + 1] = bytes([rng.integers(256)])
            case 1:
                del content[place:]
            case 2:
                del content[place : place + length]
            case 3:
                content[place:place] = rng.bytes(length)
            case 4:
                other = others[rng.integers(len(others))]
                start = int(rng.integers(len(other)))
                content[place : place + length] = other[start : start + length]
            case 5:
                extreme = int(rng.choice([0, 1, 0x7F, 0xFF, 1 << 31, (1 << 32) - 1, (1 << 63) - 1]))
                width = int(rng.choice([2, 4, 8]))
                content[place : place + width] = (extreme % (1 << 8 * width)).to_bytes(width, "little")
            case 6:  # within the header's text
                text = b'"step": 5, "epoch_step": 2, "setting": {"a": [1e999, null, true, {}]}, "sizes": '
                cut = int(rng.integers(len(text)))
                content[place : place + length] = text[cut : cut + length]
    return bytes(content)


def fuzzed(rng, files):
    """A damaged file: as it is, or past its seal, or past the checksums of its members too."""
    file = files[rng.integers(len(files))]
    match rng.integers(4):
        case 0:
            return mutated(rng, file, files)
        case 1:
            return sealed(mutated(rng, file, files))
    with zipfile.ZipFile(io.BytesIO(file)) as opened:
        members = [(name, opened.read(name)) for name in opened.namelist()]
    chosen = rng.integers(len(members))
    contents = [content for _, content in members]
    return zipped(
        *(
            (name, mutated(rng, content, contents) if place == chosen else content)
            for place, (name, content) in enumerate(members)
            if rng.random() < 0.99
        )
    )


@quick(0)
@pytest.mark.parametrize(("inputs", "least"), [(500, 25), pytest.param(20_000, 50, marks=campaign)])
def test_no_file_does_more_than_raise_a_checkpoint_error(inputs, least, written, tmp_path, report_figure):
    rng = np.random.default_rng(0)
    files = [(written / kind).read_bytes() for kind in ("model", "training")]
    path = tmp_path / "fuzzed"
    believed = 0
    reasons = set()
    for _ in range(inputs):
        path.unlink(missing_ok=True)  # see test_archive.py
        path.write_bytes(fuzzed(rng, files))
        for read in (fastmlp.load, checkpoint.read_training):
            try:
                found = read(path)
            except CheckpointError as error:
                reasons.add(str(error).partition("checkpoint: ")[2])
            else:
                model = found if read is fastmlp.load else fastmlp.load(path)
                assert np.isfinite(model.parameters).all()
                assert model.predict(X).shape == (50, 1)
                believed += 1
    assert not any("\n" in reason for reason in reasons)
    reasons = {reason[:30] for reason in reasons}
    assert len(reasons) > least, "the mutations do not reach deep"
    report_figure(f"{inputs} files read two ways, {len(reasons)} reasons to refuse, {believed} harmless")
