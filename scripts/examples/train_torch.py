"""Train on MNIST with PyTorch and save the weights, as README shows it: python scripts/examples/train_torch.py"""

import torch
import torchvae

spec = torchvae.Spec(model=torchvae.ModelSpec(hidden=(400,), latent=20))
state, images = torchvae.init_state(spec), torch.tensor(torchvae.mnist().train)
for epoch in range(10):
    state, terms = torchvae.train_epoch(spec, state, images)  # the same steps, the same numbers
    print(epoch, terms.mean(0))
torchvae.save("model.safetensors", spec, state.model)
