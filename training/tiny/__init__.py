"""How `tiny` was made; `make tiny` does it again.

tokenizer, autoencoder, text, denoiser    the model's parts and the stages of its training
train        the training, start to end; card writes down how it went
judge        pictures of unseen scenes, and what the reader finds in them
"""
