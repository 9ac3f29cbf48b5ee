"""Captions per CPU second of beam search, compared with only its matrix products (the floor).

    python -m bench.beam_search

100 images, beam 7, image, word and hidden width 256, 2,538 ids, 20 words with END suppressed, one
thread, random weights. The floor is the products of the recurrence, of the words and of the output
layer for all 700 sentences at each of the 20 steps, written into preallocated memory. (The search
itself looks the words up in a table, and its first step has 100 sentences.) Both are timed in
alternating rounds, and the best round counts, so that a busy machine affects both alike. The goal
is a ratio of 0.5.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from bench.machine import machine
from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN, beam_search
from vsa_ray.mrnn.model import Cell

NUM_IMAGES, BEAM_SIZE, NUM_WORDS = 100, 7, 20
WIDTH, VOCABULARY_SIZE = 256, 2538
TURNS = 7


def searcher(cell: Cell) -> Callable[[], None]:
    model = MultimodalRNN(
        CaptionerConfig(cell=cell, hidden_dim=WIDTH, word_dim=WIDTH),
        feature_dim=WIDTH,
        vocabulary_size=VOCABULARY_SIZE,
        log_frequencies_V=None,
    ).eval()
    features_BF = torch.randn(NUM_IMAGES, WIDTH)

    def search() -> None:
        captions = beam_search(
            model, features_BF, beam_size=BEAM_SIZE, max_words=NUM_WORDS, min_words=NUM_WORDS
        )
        assert all(len(caption.ids) == NUM_WORDS for caption in captions)

    return search


def products(cell: Cell) -> Callable[[], None]:
    inputs_dim = 4 * WIDTH if cell == "lstm" else WIDTH
    hidden_NH = torch.randn(NUM_IMAGES * BEAM_SIZE, WIDTH)
    recurrence_HG, output_HV = torch.randn(WIDTH, inputs_dim), torch.randn(WIDTH, VOCABULARY_SIZE)
    inputs_NG, logits_NV = hidden_NH @ recurrence_HG, hidden_NH @ output_HV

    def multiply() -> None:
        for _ in range(NUM_WORDS):
            torch.mm(hidden_NH, recurrence_HG, out=inputs_NG)  # W_hh h
            torch.mm(hidden_NH, recurrence_HG, out=inputs_NG)  # W_hx x, of the same size
            torch.mm(hidden_NH, output_HV, out=logits_NV)  # W_oh h

    return multiply


def cpu_seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine())
    cells: tuple[Cell, ...] = ("rnn", "lstm")
    for cell in cells:
        search, multiply = searcher(cell), products(cell)
        turns = [(cpu_seconds(search), cpu_seconds(multiply)) for _ in range(TURNS)]
        found, floor = (NUM_IMAGES / min(seconds) for seconds in zip(*turns, strict=True))
        print(
            f"{cell:4}  {found:6.1f} captions/CPU-second   floor {floor:6.1f}   "
            f"ratio {found / floor:.2f}"
        )


if __name__ == "__main__":
    main()
