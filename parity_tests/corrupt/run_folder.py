"""Malformed files of a run folder other than weights and checkpoints, and the error message of each."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parity_tests.corrupt.transforms import Kind, content

JSON = "can't be read as JSON ("
VERSION = "must be the configuration of a run, version 3, found "
RECORD = "is not a record of metrics"
CORRUPT = " is corrupt ("


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, bytes], Any]:
    """Change the configuration in place, or replace it by the returned one."""

    def make(whole: bytes) -> bytes:
        fields = json.loads(whole)
        return json.dumps(change(fields) or fields).encode()

    return content(make)


def field(where: str, value: Any) -> Callable[[Path, bytes], Any]:
    """Set the field at a dotted path to another value."""
    *above, name = where.split(".")

    def change(fields: Any) -> None:
        for key in above:
            fields = fields[int(key) if isinstance(fields, list) else key]
        fields[name] = value

    return changed(change)


def dropped(where: str) -> Callable[[Path, bytes], Any]:
    *above, name = where.split(".")

    def change(fields: Any) -> None:
        for key in above:
            fields = fields[int(key) if isinstance(fields, list) else key]
        del fields[name]

    return changed(change)


def line(text: str | bytes) -> Callable[[Path, bytes], Any]:
    """Replace the second line."""

    def change(whole: bytes) -> bytes:
        first, _, *rest = whole.splitlines(keepends=True)
        return first + (text if isinstance(text, bytes) else text.encode()) + b"\n" + b"".join(rest)

    return content(change)


def record(**fields: Any) -> Callable[[Path, bytes], Any]:
    whole = {"step": 2, "epoch": 1, "split": "train", "loss": 2.0, "reconstruction": 1.0, "kl": 1.0}
    return line(json.dumps({name: value for name, value in {**whole, **fields}.items() if value != "none"}))


def updated(where: str, **fields: Any) -> Callable[[Path, bytes], Any]:
    """Change several fields of a part of the spec."""
    return changed(lambda c: c["spec"][where].update(fields))


def other_data(name: str) -> Callable[[Path, bytes], Any]:
    def change(config: dict[str, Any]) -> None:
        config["data"]["name"] = config["spec"]["data"] = name

    return changed(change)


def replaced(old: bytes, new: bytes) -> Callable[[Path, bytes], Any]:
    return content(lambda whole: whole.replace(old, new))


def link(to: str | None) -> Callable[[Path, bytes], Any]:
    return lambda path, whole: path.symlink_to(to or path)


CONFIG = [
    Kind("nothing", lambda path, whole: None, "is not a run folder: it has no config.json; give one that train or"),
    Kind("a folder", lambda path, whole: path.mkdir(), f"{JSON}a folder is there); restore it or train again"),
    Kind("a FIFO", lambda path, whole: os.mkfifo(path), f"{JSON}a FIFO is there)"),
    Kind("a link to a device", link("/dev/zero"), f"{JSON}a device is there)"),
    Kind("a link to itself", link(None), f"{JSON}Too many levels of symbolic links)"),
    Kind("empty", content(lambda w: b""), f"{JSON}Expecting value"),
    Kind("cut", content(lambda w: w[:-20]), JSON),
    Kind("twice in a row", content(lambda w: w + w), f"{JSON}Extra data"),
    Kind("not UTF-8", replaced(b"digits", b"d\xefgits"), f"{JSON}not UTF-8 at byte"),
    Kind("a byte order mark", content(lambda w: b"\xef\xbb\xbf" + w), f"{JSON}Unexpected UTF-8 BOM"),
    Kind("nested 100,000 deep", content(lambda w: b'{"a":' * 100_000), f"{JSON}nested too deep)"),
    Kind("100 MB", lambda path, w: (path.write_bytes(w), os.truncate(path, 10**8)),
         f"{JSON}more than 4,194,304 bytes)"),
    Kind("a number of 5,000 digits", replaced(b": 3", b": " + b"3" * 5000), "of 5,000 digits)"),
    Kind("NaN", field("spec.objective.beta", float("nan")), f"{JSON}NaN is not a JSON number)"),
    Kind("a field twice", replaced(b'"keep"', b'"keep": 1, "keep"'), f"{JSON}'keep' given twice)"),
    Kind("a list", changed(lambda c: [c]), f"{VERSION}none"),
    Kind("null", content(lambda w: b"null"), f"{VERSION}none"),
    Kind("no version", dropped("version"), f"{VERSION}none"),
    Kind("a future version", field("version", 4), f"{VERSION}version 4"),
    Kind("a version of true", field("version", True), f"{VERSION}version True"),
    Kind("a version of 3.0", field("version", 3.0), f"{VERSION}version 3.0"),
    Kind("an unknown field", field("colour", "blue"), "has an unknown field 'colour'; it may have version, framework"),
    Kind("an unknown field of the data", field("data.url", "x"),
         ", data has an unknown field 'url'; it may"),
    Kind("an unknown field of a session", field("sessions.1.user", "x"), "sessions has an unknown field 'user'"),
    Kind("an unknown field of the model", field("spec.model.depth", 2), "spec, model has an unknown field 'depth'"),
    Kind("no spec", dropped("spec"), " lacks the field 'spec'"),
    Kind("no digest of the data", dropped("data.digest"), ", data lacks the field 'digest'"),
    Kind("no latent", dropped("spec.model.latent"), "spec, model lacks the field 'latent'"),
    Kind("another framework", field("framework", "caffe"),
         "framework must be one of 'jaxvae', 'torchvae', found 'caffe'"),
    Kind("a preset that commands a terminal", field("preset", "\x1b[2J"), r"preset must be a name, found '\x1b[2J'"),
    Kind("a preset that is half a letter", field("preset", "\ud800"), r"preset must be a name, found '\ud800'"),
    Kind("keep of 0", field("keep", 0), "keep must be positive and below 2^31, found 0"),
    Kind("keep of null", field("keep", None), "keep must be an integer, found None"),
    Kind("log_every of true", field("log_every", True), "log_every must be an integer, found True"),
    Kind("checkpoint_every of 2^31", field("checkpoint_every", 2**31),
         "checkpoint_every must be positive and below 2^31"),
    Kind("data that is a list", field("data", []), "data must be an object of named fields, found []"),
    Kind("a data source of 10,000 letters", field("data.source", "/x" * 5000), "source must be the path of a folder"),
    Kind("a data digest of 3 letters", field("data.digest", "abc"),
         "digest must be 64 hexadecimal digits, found 'abc'"),
    Kind("a negative number of images", field("data.train", -1), "train must be positive and below 2^31, found -1"),
    Kind("other data than the spec's", field("data.name", "mnist"),
         "data, name must be spec's data digits, found 'mnist'"),
    Kind("sessions of null", field("sessions", None), "sessions must be a list of objects, found None"),
    Kind("a session that is text", field("sessions", ["x"]), "sessions must be an object of named fields, found 'x'"),
    Kind("a negative step in a session", field("sessions.1.from_step", -3),
         "from_step must be at least 0 and below 2^31"),
    Kind("a version that is a number", field("sessions.0.versions", {"numpy": 2}), "'numpy' must be text, found 2"),
    Kind("a latent of 0", field("spec.model.latent", 0), "latent must be positive and below 2^31, found 0"),
    Kind("a latent of 2.0", field("spec.model.latent", 2.0), "spec, model, latent must be an integer, found 2.0"),
    Kind("a latent of true", field("spec.model.latent", True), "spec, model, latent must be an integer, found True"),
    Kind("a latent of 10^90", field("spec.model.latent", 10**90), "latent must be positive and below 2^31, found 1000"),
    Kind("an image of two sizes", field("spec.model.image", [28, 28]),
         "image must be a list of 3 integers, found [28, 28"),
    Kind("a width of text", field("spec.model.hidden", ["5"]), "spec, model, hidden must be an integer, found '5'"),
    Kind("101 layers", field("spec.model.hidden", [5] * 101), "hidden must be at most 100 widths, found (5, 5, 5"),
    Kind("a beta below 0", field("spec.objective.beta", -0.5), "beta must be finite and at least 0, found -0.5"),
    Kind("a beta of 1e400", content(lambda w: w.replace(b'"beta": 1.0', b'"beta": 1e400')),
         "beta must be finite and at"),
    Kind("a beta of 10^400", replaced(b'"beta": 1.0', b'"beta": 1' + b"0" * 400), "of 401 digits)"),
    Kind("a beta of text", field("spec.objective.beta", "1"), "objective, beta must be a number, found '1'"),
    Kind("no epochs", field("spec.training.epochs", 0), "epochs must be positive and below 2^31, found 0"),
    Kind("2^31 - 1 epochs, each of its rate", updated("training", epochs=2**31 - 1, decay=0.5),
         "epochs must be at most 1000000 with a decay, found 2147483647"),
    Kind("a learning rate of 0", field("spec.training.learning_rate", 0.0),
         "learning_rate must be positive and finite"),
    Kind("a seed of 2^64", field("spec.training.seed", 2**64),
         "seed must be an integer from 0 to 2^64 - 1, found 18446"),
    Kind("float16", field("spec.training.dtype", "float16"),
         "must be one of 'float32', 'float64', 'bfloat16', found 'float16'"),
    Kind("a network of a list", field("spec.model.network", []),
         "network must be one of 'mlp', 'conv', 'layers', found []"),
    Kind("data with a null byte", other_data("npy:\0"),
         r"data must be printable, of at most 4096 letters, found 'npy:\x00'"),
    Kind("unknown data", field("spec.data", "imagenet"), "data must be one of auto, mnist, fashion-mnist"),
    Kind("resize of 1", field("spec.images.resize", 1), "images, resize must be true or false, found 1"),
    Kind("a code for an elbo", field("spec.model.posterior", "point"), "configuration: elbo needs a distribution of"),
    Kind("a discriminator of nothing", field("spec.model.discriminator", [5]),
         "Invalid configuration: only the adversarial objective"),
    Kind("a variance nobody asks for", field("spec.model.variance", 2.0), "only the gaussian likelihood has"),
    Kind("dropout of everything", updated("images", corruption="dropout", corruption_level=1.0),
         "corruption_level must be above 0 and below 1 for dropout, found 1.0"),
]  # fmt: skip
METRICS = [
    Kind("nothing", lambda path, whole: None, "has no metrics.jsonl; give the folder that train wrote"),
    Kind("a folder", lambda path, whole: path.mkdir(), "has no metrics.jsonl; give the folder that train wrote"),
    Kind("a FIFO", lambda path, whole: os.mkfifo(path), "has no metrics.jsonl; give the folder that train wrote"),
    Kind("cut", content(lambda w: w[:-9]), f"line 4, {RECORD}"),
    Kind("not UTF-8", line(b"\xff"), f"line 2, {RECORD} (not UTF-8 at byte 0"),
    Kind("an empty line", line(""), f"line 2, {RECORD} (Expecting value"),
    Kind("a list", line("[2, 1]"),
         f"line 2, {RECORD} (expected the fields step, epoch, split, loss, reconstruction, kl"),
    Kind("nested 100,000 deep", line("[" * 100_000), f"line 2, {RECORD} (nested too deep"),
    Kind("a field twice", line('{"step": 1, "step": 2}'), f"line 2, {RECORD} ('step' given twice"),
    Kind("an unknown field", record(colour=1.0),
         f"line 2, {RECORD} (expected the fields step, epoch, split, loss, reconstruction, kl"),
    Kind("a field missing", record(kl="none"),
         f"line 2, {RECORD} (expected the fields step, epoch, split, loss, reconstruction, kl"),
    Kind("a loss of NaN", record(loss=float("nan")), f"line 2, {RECORD} (NaN is not a JSON number"),
    Kind("a loss of 1e400", replaced(b"2.25", b"1e400"), f"line 2, {RECORD} (loss must be a finite number, found inf"),
    Kind("a loss of text", record(loss="2"), f"line 2, {RECORD} (loss must be a finite number, found '2'"),
    Kind("a step of true", record(step=True),
         f"line 2, {RECORD} (step must be an integer above 0 and below 2^31, found True"),
    Kind("a negative step", record(step=-2),
         f"line 2, {RECORD} (step must be an integer above 0 and below 2^31, found -2"),
    Kind("a step of 10^90", record(step=10**90),
         f"line 2, {RECORD} (step must be an integer above 0 and below 2^31, found 1000"),
    Kind("an epoch of 2^31", record(epoch=2**31),
         f"line 2, {RECORD} (epoch must be an integer above 0 and below 2^31, found 2147483648"),
    Kind("an unknown split", record(split="dev"),
         f"line 2, {RECORD} (split must be train, test or validation, found 'dev'"),
]  # fmt: skip
LISTING = [
    Kind("nothing", lambda path, whole: None, " is gone"),
    Kind("a folder", lambda path, whole: path.mkdir(), "must be a file, found a folder; remove it"),
    Kind("a FIFO", lambda path, whole: os.mkfifo(path), "must be a file, found a FIFO; remove it"),
    Kind("empty", content(lambda w: b""), f"{CORRUPT}Expecting value"),
    Kind("cut", content(lambda w: b"[3"), f"{CORRUPT}Expecting ',' delimiter"),
    Kind("not UTF-8", content(lambda w: b"[\xff]"), f"{CORRUPT}not UTF-8 at byte 1)"),
    Kind("nested 100,000 deep", content(lambda w: b"[" * 100_000), f"{CORRUPT}nested too deep)"),
    Kind("100 MB", lambda path, w: (path.write_bytes(w), os.truncate(path, 10**8)),
         f"{CORRUPT}more than 4,194,304 bytes)"),
    Kind("an object", content(lambda w: b"{}"), f"{CORRUPT}expected a list of steps, found {{}})"),
    Kind("a negative step", content(lambda w: b"[-3]"), f"{CORRUPT}expected a list of steps, found [-3])"),
    Kind("a step of true", content(lambda w: b"[true, 3]"), f"{CORRUPT}expected a list of steps, found [True, 3])"),
    Kind("a step of 3.0", content(lambda w: b"[3.0]"), f"{CORRUPT}expected a list of steps, found [3.0])"),
    Kind("a step of null", content(lambda w: b"[null]"), f"{CORRUPT}expected a list of steps, found [None])"),
    Kind("a step of 10^90", content(lambda w: b"[1" + b"0" * 90 + b"]"), f"{CORRUPT}expected a list of steps"),
    Kind("NaN", content(lambda w: b"[NaN]"), f"{CORRUPT}NaN is not a JSON number)"),
    Kind("100,000 steps never taken", content(lambda w: json.dumps([*range(3, 100_003)]).encode()),
         "And 99,994 more like these"),
]  # fmt: skip
