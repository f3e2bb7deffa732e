"""A variational autoencoder in Flax that is, number for number, the one in `torchvae`.

Everything below is imported when it is first used; `__init__.pyi` lists it. Imports run one way: `scripts, parity_tests
-> jaxvae | torchvae -> jaxvae.shared -> numpy`. The house:

jaxvae/            the Flax side; never torch               torchvae/          the PyTorch side; never jax
  keys.py          the streams of a run's one key             random.py        jax.random's streams, in torch
  draws.py         what a step draws from its key             (the rest: the same files, the same names in
  distributions.py posteriors, likelihoods, divergences        the same order; a diff shows framework words)
  nets.py          encoders, decoders, discriminator
  convolution.py   for XLA on CPUs and on accelerators (JAX only)
  objectives.py    ELBO, capacity, IWAE, adversarial
  pixels.py        bytes to pixels, binarised, corrupted
  train.py         one step, one epoch                      parity_tests/      the suite; harness/ measures agreement
  loop.py          one run, in parts                        scripts/           train.sh, test.sh, setup.sh, parity.py,
  evaluate.py      how good a model is                                         reproduce.py, port_a_classifier.py,
  generate.py      samples and reconstructions                                 golden.py, benchmark.py, kills.py,
  params.py        parameters to and from named arrays                         handover.py, fuzz.py, benchmarks/,
  devices.py       where to compute; parallel.py: on several                   two_processes.py, figures/, protocols/
  sweep.py         a sweep's runs as one program (JAX only)
  export.py        the model for other programs
  foreign.py       other people's models, and yours
  shared/          the ground floor: numpy, neither framework
    spec.py        the configuration; presets.py: known ones  layout.py        the parameter table, every transpose
    data.py        MNIST; yours: files.py, arrays.py (numpy)  weights.py       the weight file
    tensors.py     a safetensors file, read with distrust     strict.py        JSON that can be meant in one way only
    runs.py        the run folder                             metrics.py       its lines
    checkpoints.py which there are, which is good             pace.py, streaming.py  a run's parts, its data's blocks
    cli.py         the command line, written once             training.py      its command train; going.py: a run going
    sweeping.py    its command sweep; outcomes.py: what of it evaluation.py    its command evaluate; measures.py
    reporting.py   its command report                         keeping.py       the measures that a run folder keeps
    webpage.py     the page it writes; page/: its files       explorer.py      what of a model goes into it
    charts.py      learning curves; recipe.py: a run again    agreement.py     what scripts/parity.py --run found
    exporting.py   its command export                         comparison.py    PCA beside the runs
    needs.py       what a configuration asks of its data      figures.py, describe.py, errors.py
    drawing.py     the commands that draw                     paths.py, panels.py, embedding.py
    opening.py     a run's weights and images                 latents.py      which latents matter, where they lie
    watching.py    what training tells as it goes             tensorboard.py   the same there; projector.py
    curves.py      its command curves
    foreign.py     other people's models as tables            sources.py       the known ones, recognised
    importing.py   the command import, and the way back       containers.py    their files
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
