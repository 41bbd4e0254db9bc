"""Mixtures of experts: their architectures, the tensors that no file holds, and how routers are computed."""
