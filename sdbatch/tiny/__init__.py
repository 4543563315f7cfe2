"""The embedded model: a small text-to-image latent diffusion model, its world, its training and its judge.

scenes       what there is to draw, and the tenth that training never sees
captions     how people would ask for it
reader       reads a picture back from its pixels
tokenizer, autoencoder, text, denoiser    the model's parts and the stages of its training
train        the training, start to end; card writes down how it went
judge        pictures of unseen scenes, and what the reader finds in them
"""
