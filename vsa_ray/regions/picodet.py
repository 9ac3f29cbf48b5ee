"""Small one-stage detectors in ONNX Runtime: models like PaddleDetection's PicoDet.

One input, (1, 3, S, S). Two outputs a stride: first come all the class scores, (1, cells, C), then
all the box distributions, (1, cells, 4 K), where the distance from a cell's centre to each side of
its box is spread over K bins of one stride each (generalised focal loss, Li et al. 2020).
"""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
import onnxruntime

from vsa_ray import storage
from vsa_ray.images import Pixels
from vsa_ray.regions.batching import resize
from vsa_ray.regions.config import RegionConfig
from vsa_ray.regions.detectors import Detections, Floats, select

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
"""Of ImageNet, RGB."""


class PicoDet:
    """A `Detector`.

    The image is stretched to the model's square, as in its training: no pixels go to padding.
    Classes are COCO's, or the lines of a file beside the model, `<model>.names`.
    """

    def __init__(self, config: RegionConfig, threads: int) -> None:
        self.config = config
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3  # older exporters cause a warning for every weight
        self._session = onnxruntime.InferenceSession(
            storage.read_bytes(config.weights), options, providers=["CPUExecutionProvider"]
        )
        (self._input,) = self._session.get_inputs()
        self._side = int(self._input.shape[2])
        self._labels = self._class_names()

    def __call__(self, images: list[Pixels]) -> list[Detections]:
        return [self._detect(image) for image in images]

    def _detect(self, image: Pixels) -> Detections:
        square = resize(image, self._side, self._side).permute(1, 2, 0).numpy()
        network_input = ((square - MEAN) / STD).transpose(2, 0, 1)[None]
        outputs = self._session.run(None, {self._input.name: np.ascontiguousarray(network_input)})
        levels = len(outputs) // 2
        decoded = [
            decode_level(scores[0], distances[0], self._side, self.config.min_score)
            for scores, distances in zip(outputs[:levels], outputs[levels:], strict=True)
        ]
        boxes, scores, classes = (np.concatenate(part) for part in zip(*decoded, strict=True))
        height, width = image.shape[:2]
        return select(
            boxes * (np.array([width, height] * 2) / self._side),
            scores,
            [self._labels[i] for i in classes],
            image,
            self.config,
        )

    def _class_names(self) -> list[str]:
        """Raises ValueError where the model is of another kind, or the names are not its."""
        shapes = [output.shape for output in self._session.get_outputs()]
        half = len(shapes) // 2
        if half == 0 or any(
            scores[1] != distances[1] or distances[2] % 4 or scores[2] != shapes[0][2]
            for scores, distances in zip(shapes[:half], shapes[half:], strict=True)
        ):
            raise ValueError(
                f"{self.config.weights}: not PicoDet's outputs (scores of every stride, then box "
                f"distributions of every stride), but {shapes}; export it without NMS"
            )
        file = str(self.config.weights).removesuffix(PurePosixPath(self.config.weights).suffix)
        if storage.exists(f"{file}.names"):
            names = storage.read_text(f"{file}.names").splitlines()
        else:
            names = coco_names()
        if len(names) != shapes[0][2]:
            raise ValueError(
                f"{self.config.weights}: {shapes[0][2]} classes, but {len(names)} names; "
                f"write its names to {file}.names, one a line"
            )
        return names


def decode_level(
    scores: Floats, distances: Floats, side: int, min_score: float
) -> tuple[Floats, Floats, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Boxes of one stride that are confident enough, in pixels of the network's input.

    Args:
        scores: (cells, C), row by row of a square grid.
        distances: (cells, 4 K) logits, over how many strides left, up, right and down.
        side: of the network's input, which the grid covers (the last cells may reach beyond).

    Returns:
        (n, 4) boxes, (n,) scores of their best class, and (n,) that class.
    """
    cells_a_row = round(len(scores) ** 0.5)
    stride = 2 ** round(np.log2(side / cells_a_row))
    cells = np.flatnonzero(scores.max(axis=1) >= min_score)
    rows, columns = np.divmod(cells, cells_a_row)
    centres = (np.stack([columns, rows], axis=1) + 0.5) * stride
    logits = distances[cells].reshape(len(cells), 4, distances.shape[1] // 4)
    bins = np.exp(logits - logits.max(axis=2, keepdims=True))
    expected = bins @ np.arange(bins.shape[2]) / bins.sum(axis=2) * stride
    boxes = np.hstack([centres - expected[:, :2], centres + expected[:, 2:]])
    return boxes, scores[cells].max(axis=1), scores[cells].argmax(axis=1)


def coco_names() -> list[str]:
    """COCO's 80 classes, in order."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [name for name in names if name not in ("__background__", "N/A")]
