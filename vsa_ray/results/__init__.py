"""Results of whole reproductions, beside those of the paper.

    parts.py       what is measured once, and remembered
    recipe.py      the tables and models of one recipe to all that is measured of it
    measuring.py   models and tables to rows of retrieval and captions
    grounding.py   the same of grounding; how phrases find boxes, as chosen on dev
    spread.py      results of several seeds to their mean and deviation
    assembly.py    all rows of a recipe to one file of docs/results
    paper.py       the paper's numbers, as data
    page.py        the files of docs/results to its page

jobs.reproduce writes such a file a recipe, and the page from all that lie side by side.
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
