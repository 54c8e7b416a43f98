"""Hub models without network: one sentence at once; cached models are loaded."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from refersam import ReferSamModel, ReferSamPredictor, ReferSamProcessor, hub
from refersam.checkpoints.backbones import model_from_backbones
from refersam.cli.console import quiet_transformers
from refersam.errors import CheckpointError, DataError
from refersam.hub import DownloadError
from refersam.inference.description import describe_model
from refersam.training.building import build_model, build_processor
from refersam.training.settings import TrainSettings
from refersam.training.trainer import Trainer
from sceneref.training import extension
from sceneref.training.settings import SceneRefTrainSettings
from sceneref.training.source import SceneSource

NAME = "owner/nothing-at-all"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a Hub address that refuses connections; returns the cache."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub._answers.cache_clear()
    return tmp_path / "cache"


def put_into(cache: Path, name: str, folder: Path) -> Path:
    """Lay out a folder as a downloaded model; return the snapshot."""
    repository, commit = cache / f"models--{name.replace('/', '--')}", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(folder, repository / "snapshots" / commit))


def settings_with(**model: str) -> SceneRefTrainSettings:
    """Return settings of a run on rendered scenes."""
    section = {"spatial_prior_from": model.pop("spatial_prior_from", None)}
    return SceneRefTrainSettings.model_validate({"model": model, "sceneref": section})


LOADERS: dict[str, Callable[[str, Path], object]] = {
    "model": lambda name, _: ReferSamModel.from_pretrained(name),
    "processor": lambda name, _: ReferSamProcessor.from_pretrained(name),
    "predictor": lambda name, _: ReferSamPredictor.from_pretrained(name, device="cpu"),
    "tokenizer": lambda name, _: ReferSamProcessor.from_text_encoder(name),
    "sam": lambda name, folder: model_from_backbones(name, folder),
    "description": lambda name, _: describe_model(name),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_a_model_that_was_never_downloaded(offline: Path, tiny_model_folder: Path, loader: str) -> None:
    """One sentence at once: what is missing, why, and the remedy."""
    start = time.monotonic()
    with pytest.raises(DownloadError) as caught:
        LOADERS[loader](NAME, tiny_model_folder)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert message.startswith(
        f"No such model: {NAME} is not a folder, was never downloaded, and the Hub cannot be reac"
    )
    assert f"{constants.ENDPOINT} does not answer" in message
    assert f"hf download {NAME} --local-dir FOLDER" in message
    assert "HF_HOME" in message
    assert "\n" not in message


def test_the_hub_is_not_asked_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains the reason."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        ReferSamProcessor.from_text_encoder(NAME)


def test_a_hub_that_accepts_but_never_answers(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One timeout for all files and models."""
    monkeypatch.setattr(hub, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        for _ in range(3):
            with pytest.raises(DownloadError):
                ReferSamProcessor.from_text_encoder(NAME)
        assert time.monotonic() - start < 3
    assert hub._answers.cache_info().misses <= 2  # two where a minute ends in between


@pytest.fixture
def answering(offline: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub that responds."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Disable logging."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("answering")
def test_online_transformers_asks_the_hub_as_ever(tmp_path: Path) -> None:
    """But never for a folder."""
    assert hub.hub_options(NAME) == {"local_files_only": False}
    assert hub.hub_options(str(tmp_path)) == {"local_files_only": True}


@pytest.mark.parametrize("loader", ["model", "processor", "predictor", "tokenizer", "description"])
def test_a_downloaded_model_loads_without_a_network(offline: Path, tiny_model_folder: Path, loader: str) -> None:
    """At once."""
    put_into(offline, "owner/tiny", tiny_model_folder)
    start = time.monotonic()
    LOADERS[loader]("owner/tiny", tiny_model_folder)
    assert time.monotonic() - start < 5


def test_a_model_that_was_downloaded_in_part(offline: Path, tiny_model_folder: Path) -> None:
    """Its configuration is not a model."""
    snapshot = put_into(offline, "owner/tiny", tiny_model_folder)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(DownloadError, match="No such model: owner/tiny"):
        ReferSamPredictor.from_pretrained("owner/tiny", device="cpu")


def test_a_broken_download_is_not_called_missing(offline: Path, tiny_model_folder: Path) -> None:
    """The file exists, and the error describes its problem."""
    snapshot = put_into(offline, "owner/tiny", tiny_model_folder)
    (snapshot / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="No model could be read from owner/tiny") as caught:
        ReferSamPredictor.from_pretrained("owner/tiny", device="cpu")
    assert not isinstance(caught.value, DownloadError)


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ({"sam": NAME, "text": "FOLDER"}, "model.sam"),
        ({"sam": "FOLDER", "text": NAME}, "model.text"),
        ({"start_from": NAME}, "model.start_from"),
        ({"spatial_prior_from": NAME}, "sceneref.spatial_prior_from"),
    ],
)
def test_a_run_names_the_setting(
    offline: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, str], setting: str
) -> None:
    """The error names the setting of the missing model."""
    monkeypatch.setattr(SceneSource, "tokenizer_images", 5)
    settings = settings_with(
        **{key: str(tiny_model_folder) if name == "FOLDER" else name for key, name in model.items()}
    )

    def start() -> None:
        model = build_model(settings, build_processor(settings, SceneSource(settings)))
        extension.prepare_model(model, settings)

    with pytest.raises(CheckpointError, match=f"^{setting}: No such model: {NAME} is not a folder"):
        start()


def test_missing_data_are_reported_before_a_missing_model(offline: Path, tmp_path: Path) -> None:
    """Nothing is downloaded if data are missing."""
    settings = TrainSettings.model_validate(
        {"model": {"sam": NAME, "text": NAME}, "data": {"root": str(tmp_path / "data"), "dataset": "refcoco"}}
    )
    with pytest.raises(DataError, match="should hold the data sets"):
        Trainer(settings, tmp_path / "run")


def test_warnings_of_the_hub_are_printed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own handler, not also by the command line's."""
    logger = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(logger, "propagate", True)
    quiet_transformers()
    assert not logger.propagate
