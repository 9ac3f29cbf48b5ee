"""Results of complete reproductions, compared with the paper's.

    parts.py       steps of a reproduction, each run once and cached
    recipe.py      measures everything there is to measure for one recipe
    measuring.py   rows of the retrieval and caption tables
    grounding.py   rows of the grounding table; how phrases are decoded, chosen on dev
    spread.py      mean and deviation over seeds
    assembly.py    all rows of a recipe as one file of docs/results
    paper.py       the paper's numbers, as data
    page.py        renders the files of docs/results as a page

jobs.reproduce writes one such file per recipe, and the page from all files in the folder.
"""

from vsa_ray.results.assembly import assemble
from vsa_ray.results.grounding import Decoding
from vsa_ray.results.page import TITLE, is_result, results_page
from vsa_ray.results.parts import Parts
from vsa_ray.results.recipe import Recipe
from vsa_ray.results.spread import mean_and_spread

__all__ = [
    "TITLE",
    "Decoding",
    "Parts",
    "Recipe",
    "assemble",
    "is_result",
    "mean_and_spread",
    "results_page",
]
