"""The code that both packages share. It imports numpy and small libraries, but neither JAX nor PyTorch."""
