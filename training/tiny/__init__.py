"""Training of `tiny`; `make tiny` repeats it.

tokenizer, autoencoder, text, denoiser    the model's parts and the stages of its training
train        the whole training; card writes the model card
judge        evaluates pictures of unseen scenes with the reader
"""
