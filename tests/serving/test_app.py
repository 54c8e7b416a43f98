"""What clients get, and what they are refused."""

from __future__ import annotations

import asyncio
import gc
import io
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi_offline", reason="the server's packages are not installed: pip install '.[serve]'")

from fastapi.testclient import TestClient
from pycocotools import mask as coco_mask

from refersam import ReferSamPredictor
from refersam.errors import DataError, ReferSamError
from refersam.inference.labels import label_map
from refersam.serving import app as app_module
from refersam.serving.app import create_app
from refersam.serving.settings import ServerSettings

PHRASES = ["the red circle", "star", "a zebra"]


@pytest.fixture(scope="module")
def predictor(tiny_model_folder: Path) -> ReferSamPredictor:
    """The random tiny model."""
    return ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")


@pytest.fixture
def serve(predictor: ReferSamPredictor) -> Iterator[Callable[..., TestClient]]:
    """Call with settings: a client of a server with them."""
    clients = []

    def start(**settings: Any) -> TestClient:
        client = TestClient(create_app(predictor, ServerSettings(**settings)), raise_server_exceptions=False)
        clients.append(client)
        return client.__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def png(width: int = 53, height: int = 37, seed: int = 0) -> bytes:
    """An image file."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def ask(
    client: TestClient, image: bytes, phrases: list[str], headers: dict[str, str] | None = None, **fields: Any
) -> Any:
    """POST."""
    data = {"phrases": phrases, "no_target_threshold": 0, **fields}
    return client.post("/v1/segment", files={"image": ("x.png", image)}, data=data, headers=headers)


def test_answers_are_the_predictors(serve: Callable[..., TestClient], predictor: ReferSamPredictor) -> None:
    """In order, at the image's own size."""
    reply = ask(serve(), png(), PHRASES)
    assert reply.status_code == 200
    body = reply.json()
    assert (body["width"], body["height"]) == (53, 37)
    expected = predictor.predict(png(), PHRASES, no_target_threshold=0)
    for result, answer in zip(body["results"], expected, strict=True):
        assert result == {**answer.as_dict(), "box": None if answer.box is None else list(answer.box)}
        assert np.array_equal(coco_mask.decode(result["rle"]).astype(bool), answer.mask)


def test_clicks(serve: Callable[..., TestClient], predictor: ReferSamPredictor) -> None:
    """Points and a box of one phrase, as JSON in form fields."""
    clicks = {"points": "[[3, 4], [20.5, 30]]", "point_labels": "[1, 0]", "box": "[2, 2, 40, 30]"}
    (result,) = ask(serve(), png(), ["star"], **clicks).json()["results"]
    expected = predictor.predict(
        png(), "star", no_target_threshold=0, points=[(3, 4), (20.5, 30)], point_labels=[1, 0], box=(2, 2, 40, 30)
    )
    assert result["rle"] == expected.to_rle()
    assert result["rle"] != predictor.predict(png(), "star", no_target_threshold=0).to_rle()


def test_specks(serve: Callable[..., TestClient], predictor: ReferSamPredictor) -> None:
    """The field has the predictor's default, and its effect."""
    client, areas = serve(), []
    threshold = float(np.quantile(predictor.predict(png(), PHRASES[0]).probability, 0.8))
    for fraction in (0, 1):
        reply = ask(client, png(), PHRASES, threshold=threshold, min_component_fraction=fraction).json()
        answers = predictor.predict(png(), PHRASES, threshold, 0, fraction)
        areas.append([result["area"] for result in reply["results"]])
        assert areas[-1] == [answer.area for answer in answers]
    assert areas[0] != areas[1]


def test_what_a_long_phrase_leaves_out_is_reported(serve: Callable[..., TestClient]) -> None:
    """With the answer to that phrase alone."""
    results = ask(serve(), png(), ["red " * 18 + "Circle, not blue", "star"]).json()["results"]
    assert [result.get("left_out") for result in results] == ["Circle, not blue", None]


def test_unknown_parts_are_reported(serve: Callable[..., TestClient]) -> None:
    """With the answer to that phrase alone."""
    results = ask(serve(), png(), ["star \u2b50", "star"]).json()["results"]
    assert [result.get("unknown") for result in results] == [["\u2b50"], None]


def test_answers_carry_the_domain(predictor: ReferSamPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON, as PNG in a header, and when asked whether it is ready; nothing of a general model."""
    with TestClient(create_app(predictor)) as client:
        assert "domain" not in {**ask(client, png(), PHRASES).json(), **client.get("/ready").json()}
        assert "x-refersam-domain" not in ask(client, png(), PHRASES, format="png").headers
    monkeypatch.setattr(predictor.model.config, "domain", "chest X-rays")
    with TestClient(create_app(predictor)) as client:
        assert ask(client, png(), PHRASES).json()["domain"] == "chest X-rays"
        assert client.get("/ready").json() == {"status": "ready", "domain": "chest X-rays"}
        assert ask(client, png(), PHRASES, format="png").headers["x-refersam-domain"] == "chest X-rays"
        assert "domain" in client.get("/openapi.json").json()["components"]["schemas"]["SegmentReply"]["properties"]


def test_png(serve: Callable[..., TestClient], predictor: ReferSamPredictor) -> None:
    """One phrase: black and white. Several: a label map."""
    client = serve()
    expected = predictor.predict(png(), PHRASES, no_target_threshold=0)
    reply = ask(client, png(), PHRASES[:1], format="png")
    assert reply.headers["content-type"] == "image/png"
    single = predictor.predict(png(), PHRASES[0], no_target_threshold=0)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(reply.content))), single.mask * np.uint8(255))
    labels = np.asarray(Image.open(io.BytesIO(ask(client, png(), PHRASES, format="png").content)))
    assert np.array_equal(labels, label_map(expected))


def test_many_clients_at_once_get_their_own_answers(
    serve: Callable[..., TestClient], predictor: ReferSamPredictor
) -> None:
    """Images of different sizes and numbers of phrases; some run together."""
    client = serve()
    cases = [(png(40 + n, 30 + n, n), PHRASES[: 1 + n % 3]) for n in range(24)]
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda case: ask(client, *case).json(), cases))
    for number, (reply, (image, phrases)) in enumerate(zip(replies, cases, strict=True)):
        assert (reply["width"], reply["height"]) == (40 + number, 30 + number)
        assert [result["phrase"] for result in reply["results"]] == phrases
        for result, answer in zip(
            reply["results"], predictor.predict(image, phrases, no_target_threshold=0), strict=True
        ):
            different = coco_mask.decode(result["rle"]).astype(bool) ^ answer.mask
            assert np.count_nonzero(different) <= 2  # a batch may round in another way


@pytest.mark.parametrize(
    ("image", "phrases", "fields", "status", "message"),
    [
        (b"no image", ["x"], {}, 415, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ["x"], {}, 415, "not an image"),
        (png()[:-40], ["x"], {}, 422, "broken or cut off"),
        (png(200, 200), ["x"], {}, 413, "more than the limit of 10,000"),
        (b"x" * 200_000, ["x"], {}, 413, "150,000 bytes"),
        (png(), [], {}, 422, "phrases is missing"),
        (png(), ["x", " "], {}, 422, "one is empty"),
        (png(), ["\u200b"], {}, 422, "one is empty"),
        (png(), ["x"] * 5, {}, 422, "4 phrases, and this one has 5"),
        (png(), ["x"] * 1200, {}, 422, "."),
        (png(), ["x" * 501], {}, 422, "500 characters"),
        (png(), ["x"], {"threshold": 1.5}, 422, "threshold should be "),
        (png(), ["x"], {"threshold": "nan"}, 422, "threshold should be "),
        (png(), ["x"], {"no_target_threshold": "no"}, 422, "no_target_threshold should be "),
        (png(), ["x"], {"min_component_fraction": -1}, 422, "min_component_fraction should be "),
        (png(), ["x"], {"format": "tiff"}, 422, "format should be "),
        (png(), ["x"], {"points": "[[1, 2"}, 422, "points"),
        (png(), ["x"], {"points": "[[1, 2, 3]]"}, 422, "points"),
        (png(), ["x"], {"points": "[[1, NaN]]"}, 422, "points"),
        (png(), ["x"], {"points": "[[99, 2]]"}, 422, "inside the image of 53 x 37 pixels"),
        (png(), ["x"], {"points": "[[1, 2]]", "point_labels": "[1, 1]"}, 422, "1 point and 2 labels"),
        (png(), ["x"], {"box": "[5, 5, 5, 9]"}, 422, "A box"),
        (png(), ["x", "y"], {"points": "[[1, 2]]"}, 422, "phrase"),
        (png(), ["x"], {"thresholdd": 0.9}, 422, "no field 'thresholdd', but image, phrases, points"),
    ],
)
def test_refused(
    serve: Callable[..., TestClient],
    image: bytes,
    phrases: list[str],
    fields: dict[str, Any],
    status: int,
    message: str,
) -> None:
    """With the right code and one sentence; the next request is answered."""
    client = serve(max_pixels=10_000, max_bytes=150_000, max_phrases=4)
    reply = ask(client, image, phrases, **fields)
    assert (reply.status_code, message in reply.json()["detail"]) == (status, True), reply.text
    assert ask(client, png(), ["x"]).status_code == 200


def test_names_and_addresses_are_only_text(serve: Callable[..., TestClient], tmp_path: Path) -> None:
    """A file or address that a client names is never opened."""
    client = serve()
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    for named in (str(secret), f"file://{secret}", "http://127.0.0.1:9/x.png"):
        assert client.post("/v1/segment", data={"image": named, "phrases": "x"}).status_code in (415, 422)
        upload = {"image": (named, b"no image")}
        assert client.post("/v1/segment", files=upload, data={"phrases": "x"}).status_code == 415


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", ""])
def test_only_multipart(serve: Callable[..., TestClient], content_type: str) -> None:
    """415; and an invalid form is 422."""
    client = serve()
    reply = client.post("/v1/segment", content=b"{}", headers={"content-type": content_type})
    assert reply.status_code == 415
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/segment", content=b"--x\r\nrubbish", headers=broken).status_code == 422
    assert client.post("/v1/segment", content=b"", headers={"content-type": "multipart/form-data"}).status_code == 422


@pytest.mark.timeout(30)
def test_a_client_does_not_choose_the_decoder(serve: Callable[..., TestClient]) -> None:
    """Python's punycode takes minutes for a megabyte, in the thread that answers everybody."""
    client = serve()
    body = b'--x\r\nContent-Disposition: form-data; name="phrases-"\r\n\r\ne28h' + b"a" * 900_000 + b"\r\n--x--\r\n"
    for charset, status in (("punycode", 415), ('"UTF-7"', 415), ("utf-8", 422), ("UTF-8", 422)):
        kind = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
        assert client.post("/v1/segment", content=body, headers=kind).status_code == status


def test_two_content_types(serve: Callable[..., TestClient]) -> None:
    """One for those who look at the first, another for those who look at the last."""
    kinds = ["multipart/form-data; boundary=x; charset=punycode", "multipart/form-data; boundary=x"]
    for order in (kinds, kinds[::-1]):
        headers = [("content-type", kind) for kind in order]
        assert serve().post("/v1/segment", content=b"--x--", headers=headers).status_code == 415


def test_a_image_that_takes_hours_is_refused(serve: Callable[..., TestClient]) -> None:
    """A JPEG of endless scans."""
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, format="JPEG", progressive=True)
    jpeg = file.getvalue()
    last, end = jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    bomb = jpeg[:end] + jpeg[last:end] * 1000 + jpeg[end:]
    reply = serve().post("/v1/segment", files={"image": bomb}, data={"phrases": "x"})
    assert reply.status_code == 422
    assert "more than 100 scans" in reply.json()["detail"]


def test_who_goes_away_is_not_worked_for(predictor: ReferSamPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six clients that leave while another's image is at work: the model sees none of theirs."""
    seen: list[int] = []
    free = threading.Event()
    real, service = app_module.run_queries, app_module._Service
    services: list[Any] = []
    monkeypatch.setattr(app_module, "_Service", lambda *limits: services.append(service(*limits)) or services[0])

    def run_queries(model: Any, queries: Any) -> Any:
        seen.append(len(queries))
        free.wait(10)
        return real(model, queries)

    parts = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + png()
    body = parts + b'\r\n--x\r\nContent-Disposition: form-data; name="phrases"\r\n\r\nstar\r\n--x--\r\n'
    headers = [(b"content-type", b"multipart/form-data; boundary=x")]

    async def ask(app: Any, gone: asyncio.Event) -> int:
        sent: list[Any] = []
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if parts:
                return parts.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/segment", "query_string": b""}
        await app({**scope, "root_path": "", "scheme": "http", "headers": headers}, receive, send)
        return int(sent[0]["status"])

    async def visit() -> list[int]:
        app = create_app(predictor, ServerSettings())
        async with app.router.lifespan_context(app):
            monkeypatch.setattr(app_module, "run_queries", run_queries)
            stays, leave = asyncio.Event(), asyncio.Event()
            first = asyncio.create_task(ask(app, stays))
            while not seen:
                await asyncio.sleep(0.01)
            others = [asyncio.create_task(ask(app, leave)) for _ in range(6)]
            batcher = services[0].batcher
            while len(batcher._waiting) < 6:
                await asyncio.sleep(0.01)
            leave.set()
            statuses = [await other for other in others]
            await asyncio.sleep(0.05)  # the tasks that were cancelled end
            kept = len(batcher._waiting)
            free.set()
            return [kept, await first, *statuses]

    assert asyncio.run(visit()) == [0, 200] + [499] * 6  # nor are their images kept
    assert seen == [1]


def test_a_reader_that_is_busy_keeps_no_images_of_those_who_left(predictor: ReferSamPredictor) -> None:
    """Its queue holds what is still to be done, not what nobody waits for."""

    class Image:
        pass

    async def visit() -> None:
        service = app_module._Service(predictor, ServerSettings(readers=1), app_module.Metrics())
        free = threading.Event()
        busy = asyncio.create_task(service._in_reader(free.wait))
        await asyncio.sleep(0.05)
        image = Image()
        kept = weakref.ref(image)
        leaves = asyncio.create_task(service._in_reader(lambda image=image: image))
        await asyncio.sleep(0.05)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
        del image, leaves
        gc.collect()
        is_kept = kept() is not None
        free.set()
        assert await busy
        assert not is_kept

    asyncio.run(visit())


def test_a_body_without_a_length_is_bounded_too(serve: Callable[..., TestClient]) -> None:
    """As chunks that never end would be."""
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for _ in range(1000):
            sent += 10_000
            yield bytes(10_000)

    reply = serve(max_bytes=100_000).post(
        "/v1/segment", content=chunks(), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert reply.status_code == 413


def test_api_key(serve: Callable[..., TestClient]) -> None:
    """Needed for what costs something; health and metrics are open."""
    client = serve(api_key="secret")
    for wrong in (None, {"authorization": "Bearer other"}, {"authorization": "secret"}, {"authorization": "Bearer é"}):
        headers = {name: value.encode("latin-1") for name, value in (wrong or {}).items()}
        assert ask(client, png(), ["x"], headers=headers).status_code == 401  # type: ignore[arg-type]
    assert ask(client, png(), ["x"], headers={"authorization": "Bearer secret"}).status_code == 200
    assert client.get("/health").status_code == client.get("/ready").status_code == 200


def test_too_many_requests(serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with Retry-After while the others wait; each of those is answered."""
    go_on, run = threading.Event(), app_module.run_queries
    client = serve(max_requests=3)

    def slow(*arguments: Any) -> Any:
        assert go_on.wait(20)
        return run(*arguments)

    monkeypatch.setattr(app_module, "run_queries", slow)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ask, client, png(), ["x"]) for _ in range(3)]
        while "refersam_open_requests 3.0" not in client.get("/metrics").text:
            time.sleep(0.01)
        refused = ask(client, png(), ["x"])
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        go_on.set()
        assert [reply.result().status_code for reply in waiting] == [200, 200, 200]


def test_while_the_model_is_loaded(predictor: ReferSamPredictor) -> None:
    """Alive, not ready; requests get 503. Then as usual."""
    go_on = threading.Event()

    def load() -> ReferSamPredictor:
        assert go_on.wait(20)
        return predictor

    with TestClient(create_app(load)) as client:
        assert client.get("/health").status_code == 200
        refused = ask(client, png(), ["x"])
        assert client.get("/ready").status_code == refused.status_code == 503
        assert (refused.headers["retry-after"], "loading its model" in refused.text) == ("5", True)
        go_on.set()
        end = time.monotonic() + 20
        while client.get("/ready").status_code == 503:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert ask(client, png(), ["x"]).status_code == 200


def test_too_slow_and_shutting_down(serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    """503; the client that gave up does not stand in the others' way."""
    run = app_module.run_queries
    client = serve(answer_seconds=0.2)
    monkeypatch.setattr(app_module, "run_queries", lambda *arguments: time.sleep(0.6) or run(*arguments))
    reply = ask(client, png(), ["x"])
    assert (reply.status_code, "No answer within 0.2 s" in reply.text) == (503, True)
    monkeypatch.setattr(app_module, "run_queries", run)
    time.sleep(0.6)
    assert ask(client, png(), ["x"]).status_code == 200
    client.app.state.draining = True  # type: ignore[attr-defined]
    assert client.get("/ready").status_code == ask(client, png(), ["x"]).status_code == 503
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("error", [RuntimeError, ReferSamError, DataError])
def test_a_model_that_fails_says_nothing_of_itself(
    serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """500, one sentence, and the next one is answered; whether the package or another has the words for it."""
    client, run = serve(), app_module.run_queries

    def fail(*_: object) -> Any:
        raise error("a secret path")

    monkeypatch.setattr(app_module, "run_queries", fail)
    reply = ask(client, png(), ["x"])
    assert (reply.status_code, "secret" in reply.text, "the server's log" in reply.text) == (500, False, True)
    monkeypatch.setattr(app_module, "run_queries", run)
    assert ask(client, png(), ["x"]).status_code == 200


def test_metrics_and_pages(serve: Callable[..., TestClient]) -> None:
    """Counted by status; the API's page needs nothing from elsewhere."""
    client = serve()
    ask(client, png(), PHRASES)
    ask(client, b"", ["x"])
    metrics = client.get("/metrics").text
    for line in (
        'refersam_requests_total{status="200"} 1.0',
        'refersam_requests_total{status="415"} 1.0',
        'refersam_phrases_total{no_target="false"} 3.0',
        "refersam_open_requests 0.0",
    ):
        assert line in metrics
    page = client.get("/").text  # leads to /docs
    assert "swagger" in page
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
    assert "/v1/segment" in client.get("/openapi.json").json()["paths"]
