"""Estimate the time of a step from what it moves, computes and launches. Nothing here is measured."""

from typing import NamedTuple

from compiling.devices import Target
from compiling.hlo import Work


class Estimate(NamedTuple):
    """Seconds of one step."""

    kernels: float
    """Of kernels and copies: each takes the longest of its launch, its bytes and its operations."""
    communication: float
    """Of collectives, as a ring, one after another."""
    waits: float
    """Of loops whose condition the host reads."""

    @property
    def total(self) -> float:
        """All of it, one after another."""
        return self.kernels + self.communication + self.waits


def estimate(work: Work, target: Target, counted_waits: bool) -> Estimate:
    """Estimate a step.

    Args:
        work: What it takes.
        target: The devices.
        counted_waits: Whether the step's own loop is one whose condition the host reads.

    Returns:
        The estimate.
    """
    device = target.device
    # A product's kernel has its operations at the rate of products, all others at that of the vector units.
    in_products = sum(product.operations / target.rate(product.dtype, product.precision) for product in work.products)
    operations = sum(product.operations for product in work.products)
    rate = operations / in_products if in_products else device.vector
    seconds = 0.0
    for _, moved, computed in work.kernels:
        seconds += max(device.launch, moved / device.bandwidth, computed / rate)
    seconds += sum(max(device.launch, 2 * moved / device.bandwidth) for moved in work.copies)
    ring = 2 * (target.count - 1) / target.count / device.link
    communication = sum(device.latency + one.bytes * ring for one in work.collectives)
    waits = device.wait * (work.waits + counted_waits)
    return Estimate(seconds, communication, waits)
