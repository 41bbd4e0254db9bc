"""GGUF files as models: their metadata become a config and a tokenizer, their tensors have names of transformers."""
