"""TensorFlow, Keras and tf2onnx: imported when first needed, and the two generations of Keras told apart."""

import importlib
import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import ModuleType
from typing import Any

from sn_graph.errors import EnvironmentUnavailable, ModelError

LEGACY = "TF_USE_LEGACY_KERAS"  # what makes `tf.keras` tf_keras; its own layers go through that name


class Generation(StrEnum):
    """Which Keras a model belongs to: Keras 3, or what came before it (tf_keras, and Keras 2 itself)."""

    KERAS_3 = "Keras 3"
    LEGACY = "tf_keras"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what other packages log and warn of to themselves: what matters is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def require(name: str, why: str) -> ModuleType:
    """Import a package that not every installation has, without the warnings that its own imports make.

    Raises:
        EnvironmentUnavailable: It is missing, or does not load.
    """
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise EnvironmentUnavailable(
            f"{name} can't be imported ({error}), and {why} needs it",
            do=f"pip install {_DISTRIBUTIONS.get(name, 'sn-graph[keras]')}",
        ) from None


_DISTRIBUTIONS = {"tf_keras": "--no-deps tf-keras (beside tensorflow-cpu)"}


def import_keras(generation: Generation) -> ModuleType:
    """Import the Keras of a generation, on TensorFlow.

    Raises:
        EnvironmentUnavailable: It is missing, or this process has chosen another backend or generation already.
    """
    if generation is Generation.LEGACY:
        return _import_legacy()
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    keras = require("keras", "a Keras model")
    if _major(keras) < 3:
        raise EnvironmentUnavailable(
            f"keras {keras.__version__} is installed, and the model is one of Keras 3",
            do="pip install 'keras>=3'",
        )
    if keras.config.backend() != "tensorflow":
        raise EnvironmentUnavailable(
            f"Keras runs on {keras.config.backend()} here, and the export goes through TensorFlow",
            do="set KERAS_BACKEND=tensorflow before Keras is imported, and load the model from its file",
        )
    require("tensorflow", "a Keras model")
    return keras


def _import_legacy() -> ModuleType:
    keras = sys.modules.get("keras")
    if keras is not None and _major(keras) < 3:  # an environment of Keras 2
        return keras
    if "tensorflow" in sys.modules and os.environ.get(LEGACY) != "1":
        raise EnvironmentUnavailable(
            f"a model of tf.keras 2.x needs {LEGACY}=1 in the environment before tensorflow is imported, and this "
            "process has imported it",
            do="set it and start again",
        )
    os.environ[LEGACY] = "1"
    return require("tf_keras", "a model of tf.keras 2.x")


def _major(module: ModuleType) -> int:
    return int(str(getattr(module, "__version__", "0")).split(".")[0])


def loaded_frameworks() -> Iterator[tuple[Generation, ModuleType]]:
    """Yield the Keras modules that this process has imported: whose model it may be."""
    for name in ("keras", "tf_keras"):
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "layers"):
            yield Generation.KERAS_3 if _major(module) >= 3 else Generation.LEGACY, module


def generation_of(model: object) -> Generation:
    """Return whose model this is. Raises ModelError where it is not a Keras model."""
    for generation, module in loaded_frameworks():
        if isinstance(model, module.Model):
            return generation
    raise ModelError(
        f"this is not a Keras model but a {type(model).__name__}",
        do="give a keras.Model or the path of a saved one",
    )


@contextmanager
def functions_inlined() -> Iterator[None]:
    """Let tf.functions within a traced function become part of it.

    Keras computes a grouped convolution in a function of its own, which tf2onnx leaves as a call of nothing.
    """
    tf = require("tensorflow", "a Keras model")
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def takes_training(model: Any) -> bool:
    """Say whether a model's call takes `training`."""
    parameters = inspect.signature(model.call).parameters.values()
    return any(one.name == "training" or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def said(error: Exception) -> str:
    """Return what an error of another package says, in one line of readable length."""
    text = " ".join(_COLOUR.sub("", str(error)).split()) or type(error).__name__
    return text if len(text) <= _READABLE else f"{text[:_READABLE]} …"


_READABLE = 300
_COLOUR = re.compile("\x1b" + r"\[[0-9;]*m")
