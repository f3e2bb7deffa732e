"""Random pairs of one small network in both frameworks, edits of one side, and the verdicts on them."""
