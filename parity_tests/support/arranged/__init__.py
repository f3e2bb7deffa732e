"""Pairs of networks whose arrays lie otherwise in each framework."""
