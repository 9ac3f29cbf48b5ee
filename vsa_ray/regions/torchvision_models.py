"""torchvision's detectors: Faster R-CNN and its relatives."""

from __future__ import annotations

import torch
from torchvision import models

from vsa_ray.images import Pixels
from vsa_ray.regions.batching import alike, to_tensor
from vsa_ray.regions.config import RegionConfig, is_name
from vsa_ray.regions.detectors import Detections, select
from vsa_ray.regions.weights import fit_by_name, named_classes, names_file, read_state_dict

BATCH = 8
"""Images per batch: their activations, at 1333 pixels a side, fit into 16 GB of GPU memory."""

MOST_OBLONG = 100
"""Maximum aspect ratio: scaled to 1333 pixels, longer images would be less than 14 pixels wide or
even empty, which torchvision cannot handle. Nothing would be found in them."""


class TorchvisionDetector:
    """A `Detector`. Images are batched by shape, since padding would change their boxes.

    Classes of weights from a file are COCO's, or the lines of the file `<model>.names` next to it,
    in the order of the model's outputs without the background, which comes first.
    """

    def __init__(self, config: RegionConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        weights = models.get_model_weights(config.architecture)
        self._labels: list[str] = weights.DEFAULT.meta["categories"]
        if is_name(config.weights):
            model = models.get_model(config.architecture, weights=weights[config.weights])
        else:
            if names := named_classes(config.weights):
                self._labels = ["__background__", *names]
            model = models.get_model(
                config.architecture,
                weights=None,
                weights_backbone=None,
                num_classes=len(self._labels),
            )
            own = f"{config.weights}, with {len(self._labels)} classes"
            hint = (
                f"other classes than COCO's are named in {names_file(config.weights)}, one per line"
            )
            fit_by_name(model, read_state_dict(config.weights), f"{own} ({hint}),")
        self._model = model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: list[Pixels]) -> list[Detections]:
        found: dict[int, Detections] = {}
        for group in alike([image.shape for image in images], BATCH):
            height, width, _ = images[group[0]].shape
            if max(height, width) > MOST_OBLONG * min(height, width):
                found |= {i: select([], [], [], images[i], self.config) for i in group}
                continue
            batch = [to_tensor(images[i]).to(self.device) / 255 for i in group]
            with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
                outputs = self._model(batch)
            found |= {
                i: self._select(output, images[i]) for i, output in zip(group, outputs, strict=True)
            }
        return [found[i] for i in range(len(images))]

    def _select(self, output: dict[str, torch.Tensor], image: Pixels) -> Detections:
        boxes, scores, classes = (output[k].float().cpu() for k in ("boxes", "scores", "labels"))
        sure = scores >= self.config.min_score
        labels = [self._labels[int(i)] for i in classes[sure]]
        return select(boxes[sure].numpy(), scores[sure].numpy(), labels, image, self.config)
