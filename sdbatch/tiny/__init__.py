"""The embedded model: a small text-to-image latent diffusion model, its world, and who reads its pictures.

scenes       what there is to draw, and the tenth that training never sees
captions     how people would ask for it
reader       reads a picture back from its pixels
model/       the weights in diffusers' format; `training/tiny` in the repository makes them
"""
