"""The benchmarks. `python -m bench NAME` prints its measurements and ends with `NAME: FIGURE UNIT (ratio R to FLOOR)`.

Figures are ratios measured in one run on one machine; docs/benchmarks.md keeps them. Nothing here is a test.
"""
