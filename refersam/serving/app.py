"""HTTP endpoints: segment, health, readiness, metrics."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import Depends, FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import AfterValidator, BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from refersam.errors import ImageError, ImageFormatError, ImageSizeError, PhraseError, PromptError, field_problem, shown
from refersam.image import load_image
from refersam.inference.answers import Answer, read_answers
from refersam.inference.labels import label_map
from refersam.inference.predictor import ReferSamPredictor
from refersam.inference.prompts import Prompts
from refersam.inference.queries import Query, run_queries
from refersam.model.refersam import ReferSamOutput
from refersam.phrases import is_phrase
from refersam.serving.batcher import Batcher
from refersam.serving.gate import NOT_READY, Gate
from refersam.serving.metrics import Metrics
from refersam.serving.settings import ServerSettings
from refersam.version import __version__

_CLIENT_GONE = 499
"""Status in the metrics for a request whose client disconnected."""
_log = logging.getLogger(__name__)
T = TypeVar("T")
Thresholds = tuple[float, float | None, float | None]
"""`threshold`, `no_target_threshold` and `min_component_fraction` of `read_answers`."""
FIELDS = (
    "image", "phrases", "points", "point_labels", "box", "threshold", "no_target_threshold", "min_component_fraction",
    "format",
)  # fmt: skip
DOMAIN_HEADER = "X-ReferSAM-Domain"
"""Header of PNG responses with the domain of the model, if it has one."""


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it should be JSON, such as [[20, 30]], but is {shown(text)}") from error


JsonText = Annotated[str, AfterValidator(_parse_json)]
"""Form field in JSON; `Prompts.build` validates its value."""
Probability = Annotated[float, Form(ge=0, le=1, allow_inf_nan=False)]
OwnDefault = Annotated[
    float | None, Form(ge=0, le=1, allow_inf_nan=False, description="Default: the value of the model.")
]


class Rle(BaseModel):
    """Mask in COCO run-length encoding."""

    size: tuple[int, int] = Field(description="Height and width in pixels.")
    counts: str


class PhraseResult(BaseModel):
    """The answer to one phrase."""

    phrase: str
    left_out: str = Field("", description="Truncated end of a phrase that exceeds the token limit; absent otherwise.")
    unknown: list[str] = Field([], description="Parts of the phrase outside the vocabulary; absent if there are none.")
    score: float = Field(description="Expected IoU of the mask, 0 to 1.")
    no_target: bool = Field(description="True if no object matches the phrase; the mask is empty.")
    box: tuple[int, int, int, int] | None = Field(description="Left, top, right, bottom in pixels.")
    area: int = Field(description="Number of pixels in the mask.")
    rle: Rle


class SegmentReply(BaseModel):
    """Answers about one image, in pixels of the upright image (after EXIF rotation)."""

    width: int
    height: int
    results: list[PhraseResult]
    domain: str | None = Field(
        None,
        description="The only image domain of the training data; answers about other images are not meaningful. Absent "
        "for a general model.",
    )


class Problem(BaseModel):
    """Reason for an error response."""

    detail: str


_PROBLEMS = {
    401: "The API key is missing or wrong.",
    408: "The body took too long to arrive.",
    413: "Too many bytes or pixels.",
    415: "Not multipart/form-data, or not an image file.",
    422: "Broken image, empty phrase, too many phrases, or invalid field.",
    429: "Too many requests are waiting; see Retry-After.",
    500: "The model failed.",
    503: "Timeout, or the server is starting or shutting down; see Retry-After.",
}


def create_app(
    predictor: ReferSamPredictor | Callable[[], ReferSamPredictor], settings: ServerSettings | None = None
) -> FastAPI:
    """Return an ASGI application for a predictor, or for a function that loads it in the background.

    Requests are rejected as not ready while the function runs. If it fails, the application sets `app.state.failure`
    to the error and calls `app.state.give_up()`.

    Args:
        predictor: predictor, or function that returns one.
        settings: limits of the server; None for the defaults.
    """
    limits = settings or ServerSettings()
    metrics = Metrics()
    service = _Service(predictor, limits, metrics)

    app = FastAPIOffline(
        redoc_url=None,
        title="ReferSAM",
        version=__version__,
        description="Referring image segmentation: an image and phrases in, masks out. "
        f"At most {limits.max_bytes:,} bytes, {limits.max_pixels:,} pixels and {limits.max_phrases} phrases of "
        f"{limits.max_characters} characters a request.",
        lifespan=service.lifespan,
    )
    app.state.ready = app.state.draining = False
    app.state.failure, app.state.give_up = None, lambda: None
    app.add_middleware(Gate, settings=limits, metrics=metrics, guarded=("/v1/segment",))
    _handle_errors(app)

    @app.post(
        "/v1/segment",
        summary="Segment the objects that phrases describe in an image",
        dependencies=[Depends(HTTPBearer(auto_error=False))] if limits.api_key else [],  # for the docs; see Gate
        response_model=SegmentReply,
        responses={
            200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
            **{status: {"model": Problem, "description": text} for status, text in _PROBLEMS.items()},
        },
    )
    async def segment(
        request: Request,
        image: Annotated[UploadFile, File(description="PNG, JPEG, WebP, TIFF, ...")],
        phrases: Annotated[list[str], Form(description="One field per phrase.")],
        points: Annotated[
            JsonText | None,
            Form(description="Clicks [[x, y], ...] in pixels of the upright image; one phrase only."),
        ] = None,
        point_labels: Annotated[
            JsonText | None,
            Form(description="Per point 1 (foreground) or 0 (background); all 1 by default."),
        ] = None,
        box: Annotated[
            JsonText | None,
            Form(description="[left, top, right, bottom] around the target, in pixels; one phrase only."),
        ] = None,
        threshold: Probability = 0.5,
        no_target_threshold: OwnDefault = None,
        min_component_fraction: OwnDefault = None,
        format: Annotated[
            Literal["json", "png"],
            Form(description="png: black and white mask of one phrase; label map (0, 1, 2, ...) of several phrases."),
        ] = "json",
    ) -> Response:
        """Return JSON with run lengths, box, score and no_target per phrase, in order; or a PNG.

        `domain` (PNG: the header X-ReferSAM-Domain) names the only image domain of the training data.
        """
        _check_fields(await request.form())
        _check_phrases(phrases, limits)
        try:
            async with asyncio.timeout(limits.answer_seconds):
                thresholds = threshold, no_target_threshold, min_component_fraction
                clicks = points, point_labels, box
                work = service.segment(await image.read(), phrases, clicks, thresholds, format)
                return await _unless_gone(request, work)
        except TimeoutError as error:
            raise HTTPException(503, f"No answer within {limits.answer_seconds:g} s.", {"Retry-After": "5"}) from error

    @app.get("/health", summary="Liveness: the process runs")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready", summary="Readiness: requests are accepted", responses={503: {"model": Problem}})
    async def ready(request: Request) -> dict[str, str]:
        state = request.app.state
        if not state.ready or state.draining:
            raise HTTPException(503, NOT_READY, {"Retry-After": "5"})
        return {"status": "ready", **service.domain()}

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def read_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")

    return app


class _Service:
    """Request processing: image decoding, model, and encoding of the answers."""

    predictor: ReferSamPredictor

    def __init__(
        self, source: ReferSamPredictor | Callable[[], ReferSamPredictor], limits: ServerSettings, metrics: Metrics
    ) -> None:
        self.source, self.limits, self.metrics = source, limits, metrics
        self.batcher = Batcher(self._run, limits.batch_size, metrics.batch_phrases.observe)
        self.readers = ThreadPoolExecutor(limits.readers, thread_name_prefix="reader")

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Start and stop the service. A model that is not loaded yet is loaded in the background."""
        starting = asyncio.create_task(self._start(app))
        if not callable(self.source):
            await starting
        yield
        app.state.ready = False
        starting.cancel()
        await self.batcher.stop()
        self.readers.shutdown(wait=False, cancel_futures=True)

    async def _start(self, app: FastAPI) -> None:
        """Load the model and run it once, because the first run is slow."""
        try:
            self.predictor = await asyncio.to_thread(self.source) if callable(self.source) else self.source
            self.batcher.start()
            image = Image.new("RGB", (64, 64))
            await self.batcher.ask(Query.prepare(self.predictor.processor, image, ["everything"]))
            app.state.ready = True
        except Exception as error:
            if not callable(self.source):
                raise
            app.state.failure = error  # raised by `serve`
            app.state.give_up()

    def domain(self) -> dict[str, str]:
        """Return the field `domain` of a response; empty for a general model."""
        domain = self.predictor.domain
        return {} if domain is None else {"domain": domain}

    async def segment(
        self, content: bytes, phrases: list[str], clicks: tuple[Any, Any, Any], thresholds: Thresholds, kind: str
    ) -> Response:
        query = await self._in_reader(lambda: self._read(content, phrases, clicks))
        output = await self.batcher.ask(query)
        write = self._write_png if kind == "png" else self._write_json
        return await self._in_reader(lambda: write(output, query, thresholds))

    def _run(self, queries: Sequence[Query]) -> list[ReferSamOutput]:
        outputs = run_queries(self.predictor.model, queries)
        return [ReferSamOutput(**{name: value.cpu() for name, value in output.items()}) for output in outputs]

    def _read(self, content: bytes, phrases: list[str], clicks: tuple[Any, Any, Any]) -> Query:
        image = load_image(content, max_pixels=self.limits.max_pixels)
        prompts = Prompts.build(*clicks, image.width, image.height)
        return Query.prepare(self.predictor.processor, image, phrases, prompts=prompts)

    def _answers(self, output: ReferSamOutput, query: Query, thresholds: Thresholds) -> Iterator[Answer]:
        model, processor = self.predictor.model, self.predictor.processor
        for answer in read_answers(model, processor, output, query, *thresholds):
            self.metrics.phrases.labels(no_target=str(answer.no_target).lower()).inc()
            yield answer

    def _write_json(self, output: ReferSamOutput, query: Query, thresholds: Thresholds) -> Response:
        results = [answer.as_dict() for answer in self._answers(output, query, thresholds)]
        return JSONResponse({"width": query.width, "height": query.height, "results": results, **self.domain()})

    def _write_png(self, output: ReferSamOutput, query: Query, thresholds: Thresholds) -> Response:
        labels = label_map(self._answers(output, query, thresholds)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(labels * np.uint8(255) if len(query.phrases) == 1 else labels).save(file, format="PNG")
        response = Response(file.getvalue(), media_type="image/png")
        if self.predictor.domain is not None:
            response.headers[DOMAIN_HEADER] = self.predictor.domain
        return response

    async def _in_reader(self, work: Callable[[], T]) -> T:
        waiting = [work]  # emptied on cancellation: the executor's queue would keep the image in memory
        del work
        try:
            return await asyncio.get_running_loop().run_in_executor(self.readers, lambda: waiting.pop()())
        finally:
            waiting.clear()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Await `work`; cancel it if the client disconnects, which removes its query from the queue."""

    async def wait_until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.create_task(work), asyncio.create_task(wait_until_gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else Response(status_code=_CLIENT_GONE)
    finally:
        for task in tasks:
            task.cancel()


def _check_fields(names: Iterable[str]) -> None:
    """Reject unknown fields: FastAPI would ignore a misspelt threshold."""
    unknown = next((name for name in names if name not in FIELDS), None)
    if unknown is not None:
        raise HTTPException(422, f"There is no field {unknown[:40]!r}, but {', '.join(FIELDS)}.")


def _check_phrases(phrases: list[str], limits: ServerSettings) -> None:
    if len(phrases) > limits.max_phrases:
        raise HTTPException(422, f"A request may have {limits.max_phrases} phrases, and this one has {len(phrases)}.")
    for phrase in phrases:
        if not is_phrase(phrase):
            raise HTTPException(422, "A phrase must have at least one word, but one is empty.")
        if len(phrase) > limits.max_characters:
            raise HTTPException(422, f"A phrase may have {limits.max_characters} characters, and one is longer.")


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def wrong_field(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{field_problem({**first, 'loc': first['loc'][-1:]})}."}, 422)

    @app.exception_handler(StarletteHTTPException)
    async def told(_request: Request, error: StarletteHTTPException) -> JSONResponse:
        status = 422 if error.status_code == 400 else error.status_code  # invalid form data
        return JSONResponse({"detail": error.detail}, status, error.headers)

    @app.exception_handler(ImageError)
    @app.exception_handler(PhraseError)
    @app.exception_handler(PromptError)
    async def unreadable(_request: Request, error: ImageError | PhraseError | PromptError) -> JSONResponse:
        status = 413 if isinstance(error, ImageSizeError) else 415 if isinstance(error, ImageFormatError) else 422
        return JSONResponse({"detail": str(error)}, status)

    @app.exception_handler(Exception)
    async def failed(_request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "The model failed on this request; see the server's log."}, 500)
