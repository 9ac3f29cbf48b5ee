"""Results of whole reproductions, beside those of the paper.

    spread.py   results of several seeds to their mean and deviation
    paper.py    the paper's numbers, as data
    page.py     the files of docs/results to its page

jobs.reproduce writes such a file a recipe, and the page from all that lie side by side.
"""

from vsa_ray.results.page import results_page
from vsa_ray.results.spread import mean_and_spread

__all__ = ["mean_and_spread", "results_page"]
