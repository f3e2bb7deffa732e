"""The plain formulas, written independently of both packages, on named arrays in PyTorch's layout.

They decide which of two backends departs. Each function takes the parts that known faults change as arguments, so that
the result of a faulty program can be computed too. `xp` is numpy or jax.numpy, the latter for gradients.
"""

from parity_tests.harness.vae.reference.networks import Arrays as Arrays
from parity_tests.harness.vae.reference.networks import Outputs as Outputs
from parity_tests.harness.vae.reference.networks import batch_norm as batch_norm
from parity_tests.harness.vae.reference.networks import convolve as convolve
from parity_tests.harness.vae.reference.networks import convolve_back as convolve_back
from parity_tests.harness.vae.reference.networks import forward as forward
from parity_tests.harness.vae.reference.networks import judge as judge
from parity_tests.harness.vae.reference.networks import linear as linear
from parity_tests.harness.vae.reference.networks import locate as locate
from parity_tests.harness.vae.reference.networks import relu as relu
from parity_tests.harness.vae.reference.objectives import NLL as NLL
from parity_tests.harness.vae.reference.objectives import Terms as Terms
from parity_tests.harness.vae.reference.objectives import averaged as averaged
from parity_tests.harness.vae.reference.objectives import bernoulli as bernoulli
from parity_tests.harness.vae.reference.objectives import combine as combine
from parity_tests.harness.vae.reference.objectives import continuous_bernoulli as continuous_bernoulli
from parity_tests.harness.vae.reference.objectives import distance as distance
from parity_tests.harness.vae.reference.objectives import gaussian as gaussian
from parity_tests.harness.vae.reference.objectives import given_variance as given_variance
from parity_tests.harness.vae.reference.objectives import kl as kl
from parity_tests.harness.vae.reference.objectives import learned_variance as learned_variance
from parity_tests.harness.vae.reference.objectives import losses as losses
from parity_tests.harness.vae.reference.objectives import nll as nll
from parity_tests.harness.vae.reference.objectives import pixel_means as pixel_means
from parity_tests.harness.vae.reference.objectives import squared_error as squared_error
from parity_tests.harness.vae.reference.training import Adam as Adam
from parity_tests.harness.vae.reference.training import adam as adam
from parity_tests.harness.vae.reference.training import first_gradients as first_gradients
from parity_tests.harness.vae.reference.training import gradients as gradients
from parity_tests.harness.vae.reference.training import learning_rate as learning_rate
from parity_tests.harness.vae.reference.training import step as step
from parity_tests.harness.vae.reference.training import usual as usual
