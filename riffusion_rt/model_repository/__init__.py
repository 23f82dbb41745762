"""A bundle served by Triton Inference Server: the folder that it reads, and the model that makes clips inside it."""
