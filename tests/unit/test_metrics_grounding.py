from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from vsa_ray import schema
from vsa_ray.metrics import choose_by_assignment, choose_by_score, iou, score_grounding

WHOLE = [0, 0, 100, 50]
LEFT = [0, 0, 20, 20]
RIGHT = [60, 0, 100, 40]


def regions_table(boxes_of: dict[str, list[list[float]]]) -> pa.Table:
    """Pictures of 100 x 50 pixels; those without boxes have failed."""
    rows = [
        {"image_id": image_id, "width": 100, "height": 50, "boxes": boxes}
        for image_id, boxes in boxes_of.items()
    ]
    fields = [schema.REGIONS.field(name) for name in ("image_id", "width", "height", "boxes")]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def phrases_table(*sentences: tuple[str, str, list[list[list[float]]]], scale: int = 1) -> pa.Table:
    """Sentences as (sentence_id, image_id, boxes of each phrase)."""
    rows = [
        {
            "sentence_id": sentence_id,
            "image_id": image_id,
            "width": 100 * scale,
            "height": 50 * scale,
            "phrases": [{"first": 0, "stop": 1, "boxes": boxes} for boxes in phrases],
        }
        for sentence_id, image_id, phrases in sentences
    ]
    return pa.Table.from_pylist(rows, schema=schema.PHRASES)


def test_iou_equals_counted_pixels():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, size=(2, 15, 2, 2))
    boxes_N4, boxes_M4 = np.sort(corners, axis=2).reshape(2, 15, 4).astype(np.float32)

    def pixels(box):
        x1, y1, x2, y2 = box.astype(int)
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    result_NM = iou(boxes_N4, boxes_M4)
    for n, a in enumerate(boxes_N4):
        for m, b in enumerate(boxes_M4):
            both = len(pixels(a) | pixels(b))
            expected = len(pixels(a) & pixels(b)) / both if both else 0.0
            assert result_NM[n, m] == pytest.approx(expected), (a, b)


def test_a_picture_by_hand():
    regions = regions_table({"i": [WHOLE, LEFT, RIGHT]})
    phrases = phrases_table(
        ("s0", "i", [[LEFT], [[0, 0, 20, 40], [90, 45, 100, 50]]]),
        ("s1", "i", [[[55, 0, 100, 50]], [[0, 0, 5, 5]]]),
    )
    # IoU of the regions with the four phrases' best boxes:
    #   whole  .08  .16  .45  .005    its centre (50, 25) is in none of them
    #   left    1    .5   0   .0625   its centre (10, 10) is in the first two
    #   right   0    0  .711   0      its centre (80, 20) is in the third
    chosen = {("s0", 0): 1, ("s0", 1): 2, ("s1", 0): 2, ("s1", 1): 1}
    result = score_grounding(phrases, regions, chosen)
    assert (result.phrases, result.answered) == (4, 4)
    assert (result.iou50, result.pointing) == (50, 50)
    assert (result.upper_bound_iou50, result.upper_bound_pointing) == (75, 75)
    assert (result.random_iou50, result.random_pointing) == (100 * 1.5 / 4, 100 * 1.5 / 4)
    assert (result.most_confident_iou50, result.most_confident_pointing) == (50, 50)
    assert (result.whole_image_iou50, result.whole_image_pointing) == (0, 0)


def test_pointing_forgives_the_extent():
    regions = regions_table({"i": [WHOLE, LEFT]})
    phrases = phrases_table(("s", "i", [[[5, 5, 90, 50]], [[9, 9, 11, 11]]]))
    result = score_grounding(phrases, regions, {("s", 0): 1, ("s", 1): 1})
    assert (result.iou50, result.pointing) == (0, 100)
    assert (result.whole_image_iou50, result.whole_image_pointing) == (50, 50)


def test_boxes_drawn_on_a_larger_copy_are_scaled():
    regions = regions_table({"i": [WHOLE, LEFT, RIGHT]})
    drawn = [[5 * value for value in RIGHT]]
    result = score_grounding(phrases_table(("s", "i", [drawn]), scale=5), regions, {("s", 0): 2})
    assert (result.iou50, result.pointing) == (100, 100)
    assert (result.most_confident_iou50, result.most_confident_pointing) == (0, 0)


def test_width_and_height_scale_apart():
    regions = regions_table({"i": [WHOLE, LEFT]})
    phrases = phrases_table(("s", "i", [[[0, 0, 40, 20]]]))
    wide = phrases.set_column(
        phrases.schema.get_field_index("width"), "width", pa.array([200], pa.int32())
    )
    assert score_grounding(wide, regions, {("s", 0): 1}).iou50 == 100


def test_the_whole_image_stands_in_where_there_is_no_detection():
    result = score_grounding(
        phrases_table(("s", "i", [[WHOLE]])), regions_table({"i": [WHOLE]}), {("s", 0): 0}
    )
    assert result.random_iou50 == result.most_confident_iou50 == result.whole_image_iou50 == 100


def test_phrases_without_an_answer_are_wrong(caplog):
    regions = regions_table({"good": [WHOLE, LEFT], "failed": []})
    phrases = phrases_table(
        ("s0", "good", [[LEFT], [LEFT]]), ("s1", "failed", [[LEFT]]), ("s2", "absent", [[LEFT]])
    )
    result = score_grounding(phrases, regions, {("s0", 0): 1})
    assert (result.phrases, result.answered) == (4, 1)
    assert (result.iou50, result.pointing) == (25, 25)
    assert result.upper_bound_iou50 == result.random_iou50 == 50
    assert "2 of 3 images have no regions" in caplog.text


def test_grounding_inputs_that_do_not_fit():
    regions = regions_table({"i": [WHOLE, LEFT], "failed": []})
    phrases = phrases_table(("s", "i", [[LEFT]]), ("t", "failed", [[LEFT]]))
    with pytest.raises(ValueError, match=r"1 regions are chosen for unknown phrases: \('s', 7\)"):
        score_grounding(phrases, regions, {("s", 0): 1, ("s", 7): 1})
    for key, region, count in [(("s", 0), 2, 2), (("s", 0), -1, 2), (("t", 0), 0, 0)]:
        message = f"region {region} is chosen for {key}, whose image has {count} regions"
        with pytest.raises(ValueError, match=re.escape(message)):
            score_grounding(phrases, regions, {key: region})
    with pytest.raises(ValueError, match=r"phrase \('s', 0\) has no box"):
        score_grounding(phrases_table(("s", "i", [[]])), regions, {})
    with pytest.raises(ValueError, match="no phrases to score"):
        score_grounding(phrases_table(("s", "i", [])), regions, {})


def test_choose_by_score_sums_the_known_words_of_the_phrase():
    scores_TR = np.array([[9.0, 0.0, 0.0], [0.0, 1.0, 2.5], [0.0, 2.0, 0.0], [9.0, 0.0, 0.0]])
    positions = [0, 2, 4, 5]  # the words at 1 and 3 are unknown
    assert choose_by_score(scores_TR, positions, first=1, stop=5) == 1
    assert choose_by_score(scores_TR, positions, first=2, stop=3) == 2
    assert choose_by_score(scores_TR, positions, first=3, stop=4) is None


def test_choose_by_assignment_takes_the_majority_then_the_later_word():
    assignment, positions = np.array([4, 1, 1, 2, 3]), [0, 1, 2, 4, 5]
    assert choose_by_assignment(assignment, positions, first=1, stop=5) == 1
    assert choose_by_assignment(assignment, positions, first=2, stop=6) == 3
    assert choose_by_assignment(assignment, positions, first=3, stop=4) is None
