"""The ground floor both packages stand on: numpy and small libraries, neither JAX nor PyTorch."""
