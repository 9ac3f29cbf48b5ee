"""What the models are worth, in the units of the papers: numpy in, numbers out.

retrieval.py   a matrix of scores ─▶ recall at 1, 5, 10 and median rank, beside chance
captions.py    sentences and references ─▶ BLEU, ROUGE-L, CIDEr, METEOR; a baseline
grounding.py   regions chosen for phrases ─▶ accuracy against people's boxes, beside baselines
java.py        the two Java programs that the published caption scores come from
"""
