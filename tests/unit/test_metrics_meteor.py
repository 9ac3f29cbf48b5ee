"""METEOR itself, which takes 15 CPU-seconds to start: apart, so that it is easily left out."""

from __future__ import annotations

import shutil

import pytest

from vsa_ray.metrics import java


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_meteor_equals_pycocoevalcaps_in_any_locale(monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de")  # decimals with a comma
    monkeypatch.setenv("LC_ALL", "C")
    hypotheses = ["the man runs along the beach", "a dog plays in the café", ""]
    references = [
        ["a man is running on the beach", "someone jogs along the sea shore"],
        ["two dogs play with a naïve puppy in the café"],
        ["a red ball"],
    ]
    # What pycocoevalcap.meteor.meteor.Meteor().compute_score gives for these in a UTF-8 locale.
    assert java.meteor(hypotheses, references) == pytest.approx(0.18544729505520263, abs=1e-12)
