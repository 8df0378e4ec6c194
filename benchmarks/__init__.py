"""How fast it is, as ratios taken inside one run: what is compared runs in turns, so a busy moment of the machine hits both.

`python -m benchmarks [NAME...]` prints one table. Figures are not tests: a goal that is missed is shown, and nothing fails.
"""
