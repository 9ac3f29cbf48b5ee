"""Small one-stage detectors in ONNX Runtime: models like PaddleDetection's PicoDet.

One input, (1, 3, S, S). Two outputs per stride: first all class scores, (1, cells, C), then all box
distributions, (1, cells, 4 K), where the distance from a cell's centre to each side of its box is
distributed over K bins of one stride each (generalised focal loss, Li et al. 2020).
"""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from vsa_ray import storage
from vsa_ray.errors import UserError
from vsa_ray.images import Pixels
from vsa_ray.regions.batching import resize
from vsa_ray.regions.config import RegionConfig
from vsa_ray.regions.detectors import Detections, Floats, select
from vsa_ray.regions.weights import named_classes, names_file

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
"""ImageNet's mean and standard deviation, RGB."""

NOT_A_MODEL = (
    onnxruntime_errors.InvalidArgument,
    onnxruntime_errors.InvalidGraph,
    onnxruntime_errors.InvalidProtobuf,
)


class PicoDet:
    """A `Detector`.

    The image is stretched to the model's square input, as in its training, without padding. Classes
    are COCO's, or the lines of the file `<model>.names` next to the model.
    """

    def __init__(self, config: RegionConfig, threads: int) -> None:
        """Raises UserError if the weights are not such a model, or the names do not fit it."""
        self.config = config
        self._session = open_model(config.weights, threads)
        (network_input,) = self._session.get_inputs()
        self._input: str = network_input.name
        self._side: int = network_input.shape[2]
        self._labels = class_names(config.weights, self._session.get_outputs()[0].shape[2])

    def __call__(self, images: list[Pixels]) -> list[Detections]:
        return [self._detect(image) for image in images]

    def _detect(self, image: Pixels) -> Detections:
        square = resize(image, self._side, self._side).permute(1, 2, 0).numpy()
        network_input = ((square - MEAN) / STD).transpose(2, 0, 1)[None]
        outputs = self._session.run(None, {self._input: np.ascontiguousarray(network_input)})
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


def open_model(uri: str, threads: int) -> onnxruntime.InferenceSession:
    """Open a model. Raises UserError if it is not one, or has another layout."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3  # models of older exporters cause a warning per weight
    data = storage.read_bytes(uri)
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except NOT_A_MODEL as error:
        raise UserError(f"{uri}: not an ONNX model ({error})") from error
    inputs = [tensor.shape for tensor in session.get_inputs()]
    outputs = [tensor.shape for tensor in session.get_outputs()]
    if not is_layout(inputs, outputs):
        raise UserError(
            f"{uri}: inputs {inputs} and outputs {outputs} are not PicoDet's (an image; scores of "
            "every stride; box distributions of every stride); export it without NMS"
        )
    return session


def is_layout(inputs: list[list[int]], outputs: list[list[int]]) -> bool:
    """Whether tensors of these shapes have the layout in the module's docstring."""
    half = len(outputs) // 2
    scores, distances = outputs[:half], outputs[half:]
    match inputs:
        case [[_, 3, int(height), int(width)]] if height == width:
            return (
                len(outputs) == 2 * half > 0
                and all(len(shape) == 3 for shape in outputs)
                and all(s[1] == d[1] for s, d in zip(scores, distances, strict=True))
                and len({s[2] for s in scores}) == len({d[2] for d in distances}) == 1
                and distances[0][2] % 4 == 0
            )
        case _:
            return False


def class_names(uri: str, classes: int) -> list[str]:
    """Names of the model's classes. Raises UserError if their number does not fit."""
    names = named_classes(uri) or coco_names()
    if len(names) != classes:
        raise UserError(
            f"{uri}: {classes} classes, but {len(names)} names; write its names to "
            f"{names_file(uri)}, one per line"
        )
    return names


def decode_level(
    scores: Floats, distances: Floats, side: int, min_score: float
) -> tuple[Floats, Floats, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Boxes of one stride with at least `min_score`, in pixels of the network's input.

    Args:
        scores: (cells, C), row by row of a square grid.
        distances: (cells, 4 K) logits of the distances, in strides, to left, top, right, bottom.
        side: side of the network's input, which the grid covers (the last cells may exceed it).

    Returns:
        (n, 4) boxes, (n,) scores of their best classes, and (n,) these classes.
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
