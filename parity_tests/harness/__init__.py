"""Measures agreement: runs either package on the same named arrays and says how far apart the answers are."""
