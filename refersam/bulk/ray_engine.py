"""Engine that runs on a Ray cluster, or on several processes of this machine."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from refersam.bulk.items import Item
from refersam.bulk.results import Line
from refersam.bulk.run import BulkSettings, LocalEngine
from refersam.optional import require

_BLOCK = 64
"""Images that are handed to a worker together."""


class RayEngine:
    """Engine of Ray workers that each hold a model; lines are returned in order.

    Joins the cluster that RAY_ADDRESS names, where every machine must see the images under the same path, or else
    starts one of this machine's processes. The names of all images are held in memory, the images are not.

    Args:
        settings: settings of the run; each worker loads the model.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, settings: BulkSettings) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        self.ray = require("ray", "ray", "--engine ray")
        require("ray.data", "ray", "--engine ray")
        logging.getLogger("ray").setLevel(logging.ERROR)
        self.settings = settings

    def __call__(self, items: Iterable[Item]) -> Iterator[Line]:
        """See `Engine`."""
        rows = [
            {"image": i.image, "path": str(Path(i.path).absolute()), "phrases": json.dumps(i.phrases)} for i in items
        ]
        ray, started = self.ray, not self.ray.is_initialized()
        if started:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
        try:
            yield from self._lines(rows)
        finally:
            if started:
                ray.shutdown()

    def _lines(self, rows: list[dict[str, str]]) -> Iterator[Line]:
        data = self.ray.data
        context = data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        on_gpu = self.settings.device != "cpu" and self.ray.cluster_resources().get("GPU", 0) > 0
        lines = data.from_items(rows, override_num_blocks=-(-len(rows) // _BLOCK)).map_batches(
            _Worker,
            fn_constructor_args=(replace(self.settings, workers=1),),
            batch_size=_BLOCK,
            batch_format="numpy",
            compute=data.ActorPoolStrategy(size=self.settings.workers),
            num_gpus=1 if on_gpu else None,
        )
        for row in lines.iter_rows():
            yield json.loads(row["line"])


class _Worker:
    """Process with a model."""

    def __init__(self, settings: BulkSettings) -> None:
        from refersam.inference.predictor import ReferSamPredictor

        predictor = ReferSamPredictor.from_pretrained(settings.model, device=settings.device, dtype=settings.dtype)
        self.engine = LocalEngine(predictor, settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = zip(batch["image"], batch["path"], batch["phrases"], strict=True)
        items = [Item(str(image), str(path), tuple(json.loads(phrases))) for image, path, phrases in rows]
        return {"line": [json.dumps(line) for line in self.engine(items)]}
