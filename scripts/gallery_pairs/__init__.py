"""Pairs of published modules that have a Flax side and a torch side, one file a family; scripts/gallery.py runs them.

`pair` says what a pair is, `table` lists all of them, `process` compares one in a process of its own."""
