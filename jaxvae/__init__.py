"""Variational autoencoders in Flax that train exactly like those of `torchvae` in PyTorch.

The same configuration and seed give the same run in both packages. Every public name can be used as `jaxvae.NAME`; it
is imported when it is first used, and `__init__.pyi` lists all of them with their types. torch is never imported.

    spec = jaxvae.Spec(model=jaxvae.ModelSpec(hidden=(400,), latent=20))
    state = jaxvae.init_state(spec)
    state, terms = jaxvae.train_epoch(spec, state, jnp.asarray(jaxvae.mnist().train))

Modules, of which torchvae has the same except where noted:

    checks           what functions are given: shapes, dtypes, names of parameters
    keys, draws      the random streams of a run, and what one step draws from them
    distributions    posteriors, likelihoods, divergences
    networks, layers encoders, decoders, discriminator, and their layers
    operations       what they compute between the layers: labels, activations, dropout, the posterior
    nets             init, bind, encode and decode, on parameters
    products         products of lower precision, and their gradients
    convolution      convolutions that are fast on CPUs (jaxvae only)
    packed           linear layers in few kernels on GPUs (jaxvae only)
    compilation      programs that commands find again (jaxvae only)
    pixels           bytes to pixels: scaled, binarized, corrupted
    augmentation     other views of the training images
    updates          the learning rate of a step, clipped gradients, and the average of the weights
    objectives       ELBO, capacity, importance-weighted bound, adversarial
    parallel         several devices and processes
    gradients        the size of the gradient that a run follows
    train, loop      one step, one epoch; one run
    sweep            the runs of a sweep as one program (jaxvae only)
    evaluate         log-likelihood, active units and other measures
    generate         samples, reconstructions, interpolations, traversals
    params           parameters to and from named arrays; load, save
    devices          where to compute, and in which precision
    export, foreign  models for, and from, other programs
    own              a likelihood, networks and an objective of one's own
    library          figures, reports and run folders, as functions
    shared/          everything that needs no framework, used by both packages:
                     config, model, data, runs, plotting, analysis, training, interop, report, commands

torchvae also has `random`, jax.random's streams in PyTorch, `compiled`, the gradient of a step by torch.compile, and
`pickles`, which reads torch's for jaxvae.
scripts/docs/contributing.md describes the layout.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
